"""Software that was written elsewhere, as the other side of a connection; not in the wheel, because
it is installed, or built from `tests/peers/`, in a checkout only.

    building   builds what has changed
    golang     programs in Go
    rust       programs in Rust
    peers      OpenSSL, ghostunnel
    envoy      Envoy
    flood      a crowd of clients in C
"""
