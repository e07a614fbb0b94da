"""Benchmarks, one file per question: `python -m benchmarks.NAME`, or `make bench ARGS=NAME`.

A benchmark's docstring says the flow, the question, and what it does not measure.  They run
nowhere in the tests, and no test asserts a speed.
"""
