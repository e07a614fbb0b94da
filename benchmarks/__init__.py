"""Benchmarks, one file per question: `python -m benchmarks NAME …`, or `make bench ARGS=NAME`.

A benchmark's docstring says the flow, the question, and what it does not measure; its
`BENCHMARK` is what `benchmarks.harness` repeats, keeps in `results/` and renders into
docs/benchmarks.md.  They run nowhere in the tests, and no test asserts a speed.
"""
