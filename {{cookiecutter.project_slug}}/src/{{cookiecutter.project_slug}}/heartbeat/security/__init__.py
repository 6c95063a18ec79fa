"""Who may call: tokens, and the guard that every view of the engine stands behind."""
