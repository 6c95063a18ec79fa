"""The rendered project and its peers, measured side by side: `make bench`.

One run, one machine, the same work. What counts are the ratios; each is made of rounds in which
both sides take turns, so that a machine that is slower for a while is slower for both.
"""
