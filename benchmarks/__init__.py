"""Benchmarks: alternatives taken in turn in one run, told as ratios; nothing here is asserted."""
