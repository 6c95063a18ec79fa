"""`python -m … .heartbeat`: the same as the command `heartbeat`."""

from .cli import main

# A scan of the application's package imports this module, too.
if __name__ == "__main__":
    main()
