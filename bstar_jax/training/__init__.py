"""Training: batches of texts, losses, the optimizer, and one `fit` for every phase.

Axes besides the project's: M tokens of a chunk.
"""
