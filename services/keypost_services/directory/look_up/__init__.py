"""Look-ups through three tiers: process memory, Redis, the CA."""
