"""Where runs execute: on threads of this process, or elsewhere."""
