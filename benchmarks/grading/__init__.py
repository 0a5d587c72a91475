"""Benchmarks of grading: how right, and how fast."""
