"""HBONE: CONNECTs of HTTP/2 (RFC 9113), each one a stream of a TLS connection.

codes      what frames are made of: types, flags, settings, error codes
frames     bytes into frames and frames into bytes
headers    header blocks of a CONNECT and its answer, over the `hpack` library
budgets    how much of each useless thing a peer may send
events     what a session tells its caller
windows    flow control of a tunnel and of a stream
output     what is to be sent, in as few DATA frames as possible
sending    what a session says
control    what it hears of the tunnel as a whole, and of windows and resets
session    one end of a tunnel: bytes in, events out
statuses   which status answers a refused CONNECT, and what one that was received means

A *tunnel* is a TLS connection that carries *streams*; each stream relays one connection of an
application.  Nothing here does I/O or reads a clock.  A uProxy without tunnels imports none of it.
"""
