"""The optional parts of the engine: `OPTIONAL` in `heartbeat/__init__.py` has a line for each.

Delete a part and its line, and the rest works without it. A part has `includeme(config)`, or
`commands()`, which returns commands of `heartbeat`, or both.
"""
