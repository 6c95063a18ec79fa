"""The life of a run, in order: a beat, what is due, its claim, its execution, and its end.

`beat.py` calls the others. `claim.py` makes runs `in_progress`, `release.py` makes them `pending`
again, and `finish.py` alone ends them.
"""
