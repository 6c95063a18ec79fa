"""Chaos: real processes and database servers, beaten, stopped and killed, and then an audit.

`python -m chaos --help`, or `make chaos` and `make storm` in the template's folder.
"""
