"""The six phases one level down: what each reads, does, and leaves in the run directory.

A phase whose files stand is done: calling it again reads them. `iterate` is the algorithm.
"""
