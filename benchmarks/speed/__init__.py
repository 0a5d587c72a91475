"""Benchmarks of speed: seconds and memory."""
