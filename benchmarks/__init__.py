"""Benchmarks: modules that print and save JSON rows."""
