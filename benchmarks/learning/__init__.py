"""Benchmarks of learning: whether a run gets better."""
