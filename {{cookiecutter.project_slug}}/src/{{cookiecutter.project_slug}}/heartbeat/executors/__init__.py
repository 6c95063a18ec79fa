"""Where runs execute: `local.py` has the threads of this process."""
