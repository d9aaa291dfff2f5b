"""How the CA's tables came to be, step by step (Alembic)."""
