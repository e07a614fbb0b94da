"""The real parts of a uProxy called `orders`, which serves nobody yet."""

from __future__ import annotations

from pathlib import Path

from uproxy.app.configuration import ConfigurationFile
from uproxy.app.identity import now
from uproxy.app.parts import Parts
from uproxy.app.state import RunState
from uproxy.app.vitals import Vitals
from uproxy.config import Settings
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.log import Log
from uproxy.systemd import PassedSockets

CONFIGURATION = """
name: orders
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
inbound: [{name: api, listen: "127.0.0.1:PORT", transport: mtls, to: 127.0.0.1:2}]
outbound: [{listen: 127.0.0.1:3, to: db}]
destinations:
  db: {addresses: [127.0.0.1:4], transport: mtls, identities: [spiffe://example.org/ns/db/sa/**]}
"""


def orders_settings(folder: Path) -> Settings:
    """Return its configuration, with an identity in files that are written to `folder`."""
    authority = Authority("example.org")
    issued = authority.issue("/ns/shop/sa/orders")
    (folder / "svid.pem").write_bytes(issued.pem)
    (folder / "svid.key").write_bytes(issued.key_pem)
    (folder / "bundle.pem").write_bytes(authority.pem)
    (folder / "uproxy.yaml").write_text(CONFIGURATION.replace("PORT", str(free_port())))
    return ConfigurationFile(folder / "uproxy.yaml", (), {}).read()


def orders_vitals(settings: Settings) -> Vitals:
    """Build its parts, on the running event loop; nothing is started."""
    log = Log(settings.log, settings.name)
    parts = Parts(settings, log, PassedSockets({}), {"uproxy": "1"})
    state = RunState(now(), now(), "/etc/uproxy/orders.yaml", starting=False)
    return Vitals(state, parts, {"uproxy": "1"}, lambda: None, lambda: None)
