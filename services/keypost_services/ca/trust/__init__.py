"""The realm itself: its root keys, record keys and trust statements, where they are kept, and how they change."""
