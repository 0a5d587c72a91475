"""Benchmarks of fidelity: whether two ways to the same thing agree."""
