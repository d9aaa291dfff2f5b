"""Sign-in: who may act as a user. One port, and an adapter for each kind of proof."""
