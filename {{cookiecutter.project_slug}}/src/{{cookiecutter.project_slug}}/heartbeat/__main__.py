"""`python -m … .heartbeat`: the same as the command `heartbeat`."""

from .cli import main

main()
