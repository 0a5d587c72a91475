"""What a person sees while a run works: one progress bar a phase, a table, a summary."""

from bstar_jax.console.console import Console, Progress, silence_libraries

__all__ = ["Console", "Progress", "silence_libraries"]
