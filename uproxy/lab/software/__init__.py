"""Software that was written elsewhere, as the other side of a connection; not in the wheel, because
it is installed, or built from `tests/peers/`, in a checkout only.

    golang     builds programs in Go
    peers      OpenSSL, ghostunnel
    envoy      Envoy
    flood      a crowd of clients in C
"""
