"""Benchmarks of what the project promises: `python -m benchmarks --help`."""
