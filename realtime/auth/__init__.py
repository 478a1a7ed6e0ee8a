"""Who may do what, and how much of it: tokens, users, policies, limits."""
