"""HAProxy (a distribution package) as one of the compared proxies.

It verifies the peer's chain against the bundle, but no SPIFFE ID: version 2.6 can't match a URI
name.  Resumption is off; its two session tickets for each handshake are turned off in OpenSSL's
configuration, because its option `no-tls-tickets` only makes them smaller.
"""

from __future__ import annotations

from pathlib import Path

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port, is_taken
from uproxy.lab.processes import Process

_CONF = """\
global
    nbthread 2
    maxconn 9000
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen door
    bind 127.0.0.1:{port}{bind}
    server target 127.0.0.1:{target}{server}
"""
_TLS = "ssl ca-file {bundle} crt {both} ssl-min-ver TLSv1.3 no-tls-tickets verify required"
_OPENSSL = """\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = each
[each]
NumTickets = 0
Groups = {group}
Ciphersuites = {cipher}
"""


class Haproxy(Process):
    """HAProxy with two threads in front of the loopback port `target`.

    With `is_server` it accepts mTLS, otherwise it dials mTLS.  `group` and `cipher` are the
    only ones it offers or accepts.
    """

    def __init__(
        self, folder: Path, identity: IdentityFiles, target: int, group: str, cipher: str,
        *, is_server: bool,
    ) -> None:  # fmt: skip
        self.port = free_port()
        home = folder / f"haproxy-{self.port}"
        home.mkdir(parents=True)
        both, conf, openssl = home / "svid-and-key.pem", home / "haproxy.cfg", home / "openssl.cnf"
        both.touch(mode=0o600)
        both.write_bytes(identity.svid.read_bytes() + identity.key.read_bytes())
        tls = " " + _TLS.format(bundle=identity.bundle, both=both)
        conf.write_text(
            _CONF.format(
                port=self.port,
                target=target,
                bind=tls if is_server else "",
                server="" if is_server else f"{tls} no-ssl-reuse",
            )
        )
        openssl.write_text(_OPENSSL.format(group=group, cipher=cipher))
        argv: list[str | Path] = ["haproxy", "-db", "-f", conf]
        super().__init__(argv, home / "haproxy.log", env={"OPENSSL_CONF": str(openssl)})

    def is_ready(self) -> bool:
        # not by connecting, which would open a connection to the target
        return is_taken(self.port)
