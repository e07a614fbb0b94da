"""What all benchmarks share: proxies in pairs, load, rounds, and the page the figures go to.

`proxies` starts them and `observe` looks at what they negotiated; `origin` and `streams` are
applications, `wrk` is the client; `processes` reads what a process has used; `rounds` repeats,
`figures` does the arithmetic, `report` and `chart` draw.  `benchmark` says what one is.
"""
