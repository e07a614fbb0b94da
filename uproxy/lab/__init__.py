"""What tests, benchmarks and the demonstration share.  The proxy never imports it.

waiting, ports       wait for a condition; find free ports
processes            child processes that always end, and `uproxy run` as one
memory               how much memory a process uses
pki, identities      certificates, with any defect a test needs; identities as files
authorities          `uproxy authority` as a child process
mesh                 identities for a test, and a uProxy for either side
listening, tap       TCP servers in this process; a tap that captures what it forwards
wire                 reads TLS from captured bytes; pure
software             TLS software that others wrote: OpenSSL, Envoy, ghostunnel
"""
