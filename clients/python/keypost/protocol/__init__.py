"""The rules of Keypost, without I/O (docs/spec.md)."""
