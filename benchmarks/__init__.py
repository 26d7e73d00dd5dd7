"""Speed and memory as ratios against what a user would otherwise run, with the machine's limit beside them.

Run by hand, never by the tests: python -m benchmarks prepare
"""
