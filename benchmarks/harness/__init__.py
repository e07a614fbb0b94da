"""What all benchmarks share: proxies in pairs, load, rounds, and the page the figures go to.

`proxies` starts them and `observe` looks at what they negotiated; `application` is what is
behind them, `clients` and `streams` are in front (application.c and clients.c do the work,
`loads` joins a load with what it took); `processes` reads what a process has used; `rounds`
repeats, `figures` does the arithmetic, `goals` judges, `report`, `markdown` and `chart` draw.
`benchmark` says what one is.
"""
