"""The admin server, for operators, probes, scrapers and browsers.

    server.py        listeners, and who goes when there are too many
      client.py      one client: HTTP/1.1 by h11, deadlines
      bounds.py      what clients may use
      guard.py       who may ask, by Host, Origin and loopback; pure
      router.py      which answer a request gets; pure
        answers.py   the JSON and text bodies
      messages.py    a request, a response, the client's addresses
    sources.py       whom the server asks
    vitals.py        the interface to the rest of uProxy, as far as probes and scrapers need it
    facts.py         the rest of it, imported when it is asked for, and the rows that it returns
      overview.py    rows that sum up: mistakes, peers, rates
      row.py         what a row is, and how it becomes JSON
    trouble.py       what is wrong, since when, whose turn it is; pure
      causes.py      what can be wrong, in words
    certificates.py  credentials as rows, without keys
    status.html      the page at `/`; it polls `/status.json`

A *surface* is what a listener is for: `admin` answers everything, `metrics` only /metrics,
`ready` only /readyz and /livez.
"""
