"""Beside the house: what the tests, the benchmarks and the demonstration share.  The proxy never
imports it.

    waiting, ports       until something is true; ports that are free
    processes            programs that always end, and `uproxy run` as one
    memory               what a process holds
    pki, identities      certificates with every defect a test may want; identities as files
    authorities          `uproxy authority`, as a program
    mesh                 where everybody's identity comes from, and a uProxy for either side
    listening, tap       servers of our own; the one that listens on the wire
    wire                 reads TLS from captured bytes                                      pure
"""
