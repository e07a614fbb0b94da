"""Benchmarks, one file for each question: `python -m benchmarks NAME …`, or `make bench ARGS=NAME`.

A benchmark's docstring describes the flow, the question, and what is not measured.
`benchmarks.harness` repeats its `BENCHMARK`, stores the results in `results/` and renders them
into docs/benchmarks.md.  Tests don't run benchmarks, and no test asserts a speed.
"""
