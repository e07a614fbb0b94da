"""The unit under `deploy/systemd`, as it is, under a real systemd: start, reload, freeze, stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.docs import blocks
from tests.helpers.systemd_machine import PROJECT, Machine, booted
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import wait_until

pytestmark = pytest.mark.privileged

UNIT = "uproxy@orders.service"
PAGE = PROJECT / "docs" / "howto" / "systemd.md"
OPAQUE = "its socket isn't transparent"
SHIPPED = PROJECT / "deploy" / "systemd" / "uproxy@.service"

CONFIG = """\
identity:
  files: {svid: /etc/uproxy/svid.pem, key: "${CREDENTIALS_DIRECTORY}/svid.key",
          bundles: {example.org: /etc/uproxy/bundle.pem}}
inbound:
  - {name: api, listen: 127.0.0.1:8443, transport: mtls, to: 127.0.0.1:8080, alpn: [h2]}
authorization:
  - {name: web, action: allow, from: {namespaces: [web]}}
timeouts: {drain_delay: 0s}
"""

# as docs/howto/systemd.md has it, and a watchdog that a test can wait for
DROP_IN = """\
[Service]
LoadCredential=svid.key:/etc/ssl/private/orders.key
WatchdogSec=2s
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with booted(tmp_path / "machine") as machine:
        install(machine)
        yield machine


def install(machine: Machine) -> None:
    ca = Authority("example.org")
    svid = ca.issue("/ns/shop/sa/orders")
    system = machine.root / "etc/systemd/system"
    write(system / "uproxy@.service", SHIPPED.read_bytes())
    if machine.version() < 253:  # as the unit tells one to
        before_253 = SHIPPED.with_name("before-253.conf").read_bytes()
        write(system / "uproxy@.service.d/before-253.conf", before_253)
    write(system / "uproxy@.service.d/test.conf", DROP_IN.encode())
    write(machine.root / "etc/uproxy/orders.yaml", CONFIG.encode())
    write(machine.root / "etc/uproxy/svid.pem", svid.pem)
    write(machine.root / "etc/uproxy/bundle.pem", ca.pem)
    write(machine.root / "etc/ssl/private/orders.key", svid.key_pem, 0o600)
    machine.systemctl("daemon-reload")


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def journal(machine: Machine) -> str:
    return machine.run("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}").stdout


def ready(machine: Machine) -> bool:
    asked = machine.run("curl", "-sS", "http://127.0.0.1:15021/readyz")
    return asked.stdout.startswith("ready\n")  # a note may follow


def test_it_starts_reloads_is_restarted_when_frozen_and_stops(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "MemoryDenyWriteExecute") == "yes"
    assert machine.show(UNIT, "StatusText") == "ready"
    wait_until(lambda: ready(machine), "readiness")
    assert '"started: 127.0.0.1:8443"' in journal(machine)

    config = machine.root / "etc/uproxy/orders.yaml"
    config.write_text(config.read_text().replace("drain_delay: 0s", "drain_delay: 0s, idle: 5m"))
    machine.systemctl("reload", UNIT)
    wait_until(lambda: "reloaded" in journal(machine), "the reload")
    assert machine.show(UNIT, "NRestarts") == "0"

    before = machine.show(UNIT, "MainPID")
    assert machine.run("kill", "-STOP", before).returncode == 0
    wait_until(lambda: machine.show(UNIT, "NRestarts") == "1", "the watchdog", 60.0)
    wait_until(lambda: machine.show(UNIT, "ActiveState") == "active", "the restart")
    assert machine.show(UNIT, "MainPID") not in ("0", before)
    wait_until(lambda: ready(machine), "readiness")

    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
    assert machine.show(UNIT, "ExecMainStatus") == "0"
    assert "drained: 0 connections" in journal(machine)


def documented_drop_in() -> str:
    """Return what the page tells to write for ports below 1024; the unit's comment has the same."""
    [drop_in] = [block.text for block in blocks(PAGE) if "CAP_NET_BIND_SERVICE" in block.text]
    section, *lines = drop_in.splitlines()
    assert section == "[Service]"
    unit = SHIPPED.read_text()
    assert all(f"#   {line}\n" in unit for line in lines)
    return drop_in


def listens_at(machine: Machine, port: int) -> bool:
    return f":{port} " in machine.run("ss", "--listening", "--tcp", "--numeric").stdout


def test_ports_below_1024_take_the_drop_in_that_is_documented(machine: Machine) -> None:
    config = machine.root / "etc/uproxy/orders.yaml"
    config.write_text(config.read_text().replace("127.0.0.1:8443", "127.0.0.1:443"))
    assert machine.run("systemctl", "start", UNIT).returncode != 0
    assert "ports below 1024 need CAP_NET_BIND_SERVICE" in journal(machine)

    drop_in = machine.root / "etc/systemd/system/uproxy@.service.d/ports.conf"
    write(drop_in, documented_drop_in().encode())
    machine.systemctl("daemon-reload")
    machine.systemctl("start", UNIT)
    wait_until(lambda: ready(machine), "readiness")
    assert listens_at(machine, 443)


@pytest.mark.parametrize("capability", ["CAP_NET_ADMIN", "CAP_NET_RAW"])
def test_sockets_are_transparent_with_the_same_drop_in_for_capture(
    machine: Machine, capability: str
) -> None:
    config = machine.root / "etc/uproxy/orders.yaml"
    config.write_text(f"{CONFIG}outbound: [{{listen: 127.0.0.1:15001, captured: true}}]\n")
    machine.systemctl("start", UNIT)
    assert OPAQUE in journal(machine)
    machine.systemctl("stop", UNIT)

    drop_in = machine.root / "etc/systemd/system/uproxy@.service.d/ports.conf"
    write(drop_in, documented_drop_in().replace("CAP_NET_BIND_SERVICE", capability).encode())
    machine.systemctl("daemon-reload")
    before = journal(machine).count(OPAQUE)
    machine.systemctl("start", UNIT)
    wait_until(lambda: ready(machine), "readiness")
    assert journal(machine).count(OPAQUE) == before


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    write(machine.root / "etc/uproxy/orders.yaml", b"naem: orders\n")
    assert machine.run("systemctl", "start", UNIT).returncode != 0
    wait_until(lambda: machine.show(UNIT, "ActiveState") == "failed", "the end")
    assert machine.show(UNIT, "ExecMainStatus") == "2"
    assert machine.show(UNIT, "NRestarts") == "0"
    assert "did you mean 'name'?" in journal(machine)
    os.kill(machine.pid, signal.SIGCONT)  # it is still there
