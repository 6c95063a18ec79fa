"""The engine's views. Each is guarded by the deriver in `guard.py`."""
