"""The engine's views. Each is guarded by the deriver of `views/guard.py`."""
