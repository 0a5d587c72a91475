"""The six phases that `iterate` calls: what each reads, does, and writes to the run directory.

A phase whose files exist is complete. Calling it again reads them.
"""
