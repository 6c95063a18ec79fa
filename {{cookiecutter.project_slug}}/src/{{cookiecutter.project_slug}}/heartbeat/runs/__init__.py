"""The life of a run, in order: a beat, what is due, its claim, its execution, and its end.

`beat.py` calls the others; the status of a run changes here and nowhere else.
"""
