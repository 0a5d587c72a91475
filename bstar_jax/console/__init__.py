"""What a person sees while a run works: one progress bar a phase, a table, a summary.

On a terminal a phase shows a bar with its rate and the time left, and leaves one line behind.
Elsewhere it prints plain lines: one about every ten seconds, and one at the end.
Results (the table, the summary) go to standard output, everything else to standard error.
"""

from bstar_jax.console.console import Console
from bstar_jax.console.libraries import silence_libraries
from bstar_jax.console.progress import Progress

__all__ = ["Console", "Progress", "silence_libraries"]
