"""Benchmarks of compiled programs: what the compiler says without running them."""
