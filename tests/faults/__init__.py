"""What goes wrong on real machines, done on purpose: kills, power cuts, damaged files, long runs.

`python -m tests.faults --help` lists the long forms; the quick ones run with the other tests.
"""
