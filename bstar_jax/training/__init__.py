"""Training: text to batches, losses, the optimizer, and one `fit` for every phase."""
