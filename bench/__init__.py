"""Benchmarks: comparisons that print ratios and write data files below docs/; not part of the product."""
