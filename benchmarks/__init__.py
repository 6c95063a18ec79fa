"""The rendered project and its peers, measured side by side: `make bench`.

One run, one machine, the same work. Compare the ratios: each comes from rounds in which both sides
take turns, so that a slow moment of the machine affects both.
"""
