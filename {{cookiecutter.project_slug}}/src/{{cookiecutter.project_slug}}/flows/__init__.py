"""Your data flows: each module here is looked through for functions marked with `@flow`."""
