"""How often each caller may call (docs/spec.md, "Who may call")."""
