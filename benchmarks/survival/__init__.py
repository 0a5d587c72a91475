"""Benchmarks of survival: runs that are killed and go on."""
