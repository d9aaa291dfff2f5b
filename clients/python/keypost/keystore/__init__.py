"""The local key store: what a client keeps on its device, sealed (docs/architecture)."""
