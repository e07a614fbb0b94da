"""The admin server: what operators, their probes, scrapers and browsers ask a running uProxy.

    server.py        the I/O: listeners, deadlines, bounds; HTTP/1.1 by h11
      guard.py       who may ask: Host, Origin, loopback (pure)
      router.py      what is answered (pure)
        answers.py   the JSON and text bodies
      messages.py    a request, a response, who is asking
    facts.py         the only thing known of the rest of uProxy: an interface and its rows
    certificates.py  credentials as rows, without keys
    status.html      the page at `/`; it polls `/status.json`

A *surface* is what a listener is for: `admin` answers everything, `metrics` only /metrics,
`ready` only /readyz and /livez.
"""
