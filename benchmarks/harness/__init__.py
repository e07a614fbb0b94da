"""What all benchmarks share: pairs of proxies, loads, rounds, and the page with the figures.

`benchmark` defines what a benchmark is; `proxies` starts the proxies and `observe` checks what
they negotiated; `application` is behind them, `clients` and `streams` are in front (in
application.c and clients.c, and `loads` measures a load); `processes` reads how much CPU time a
process has used; `rounds` repeats, `figures` does the arithmetic, `goals` compares with the goals,
`report`, `markdown` and `chart` render.
"""
