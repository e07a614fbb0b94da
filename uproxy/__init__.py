"""uProxy: a micro-proxy that lives with one workload.

It holds the workload's SPIFFE identity, originates and terminates mutual TLS, and lets
callers in by identity.  It has no L7 code.  ``docs/design.md`` draws the floors: a module
imports only from floors below its own.
"""

__version__ = "0.1.0"
