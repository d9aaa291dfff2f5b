"""Keypost: the SDK of an end-to-end encrypted message service (see README.md)."""
