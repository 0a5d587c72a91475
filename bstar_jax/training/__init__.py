"""Training: texts to batches, losses, the optimizer, and one `fit` for every phase."""
