"""The life of a run, in order: a beat, what is due, its claim, its execution, and its end.

`beat.py` calls the others. `claim.py` puts runs in progress, `release.py` takes that back, and
`finish.py` alone ends them.
"""
