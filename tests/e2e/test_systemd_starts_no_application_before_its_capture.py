"""`uproxy-capture@.service` and the application's drop-in, as they are, under a real systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.systemd_machine import PROJECT, Machine, booted
from uproxy.lab.waiting import wait_until

pytestmark = [pytest.mark.privileged, pytest.mark.slow]

UNITS = PROJECT / "deploy" / "systemd"
APP, CAPTURE, PROXY = "orders.service", "uproxy-capture@orders.service", "uproxy@orders.service"
BELOW = "orders-api"
"""An application whose name begins as the other's, and has a dash."""
FAR = "192.0.2.1"
"""Where nobody is: without capture nothing answers there."""

CONFIG = f"""\
identity: {{workload_api: unix:///nowhere/api.sock}}
outbound: [{{listen: 127.0.0.1:15001, captured: true}}]
destinations:
  page: {{match: {{addresses: [{FAR}]}}, addresses: [127.0.0.1:8080], transport: plaintext}}
timeouts: {{drain_delay: 0s, drain: 0s}}
"""
CONFIG_BELOW = (
    CONFIG.replace("15001", "15011") + "admin: {listen: null, metrics: null, ready: null}\n"
)
PAGE = """\
[Service]
WorkingDirectory=/srv
ExecStart=/opt/uproxy/python/bin/python3 -m http.server 8080 --bind 127.0.0.1
"""
# it ends well only if it is answered
ORDERS = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=curl -sS --fail --max-time 10 http://{FAR}/
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with booted(tmp_path / "machine") as machine:
        install(machine)
        yield machine


def install(machine: Machine) -> None:
    system = machine.root / "etc/systemd/system"
    capture = (UNITS / "uproxy-capture@.service").read_text()
    write(system / "uproxy-capture@.service", capture)
    for application in ("orders", BELOW):
        drop_in = (UNITS / "captured.conf").read_text()
        write(system / f"{application}.service.d/captured.conf", drop_in)
        write(system / f"{application}.service", ORDERS)
    write(system / "uproxy@.service", (UNITS / "uproxy@.service").read_text())
    if machine.version() < 253:  # as the unit tells one to
        before_253 = (UNITS / "before-253.conf").read_text()
        write(system / "uproxy@.service.d/before-253.conf", before_253)
    write(machine.root / "etc/uproxy/orders.yaml", CONFIG)
    write(machine.root / f"etc/uproxy/{BELOW}.yaml", CONFIG_BELOW)
    write(system / "page.service", PAGE)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "page.service")
    for words in (
        "link set lo up",
        "link add eth0 type veth peer name eth1",
        "address add 192.0.2.9/24 dev eth0",
        "link set eth0 up",
        "link set eth1 up",
    ):
        assert machine.run("ip", *words.split()).returncode == 0
    up = ("curl", "-sS", "--fail", "http://127.0.0.1:8080/")
    wait_until(lambda: machine.run(*up).returncode == 0, "the page")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def options(machine: Machine, text: str, application: str = "orders") -> None:
    write(machine.root / f"etc/uproxy/{application}.capture", f"OPTIONS={text}\n")


def journal(machine: Machine, unit: str) -> str:
    return machine.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout


def carried(machine: Machine, proxy: str = PROXY) -> int:
    """Return how many connections its uProxy has carried."""
    return journal(machine, proxy).count('"destination":"page"')


def tables(machine: Machine) -> str:
    return machine.run("nft", "list", "tables").stdout


def test_the_application_runs_captured_or_not_at_all(machine: Machine) -> None:
    options(machine, "--mode nft --exclude nonsense")
    assert machine.run("systemctl", "start", APP).returncode != 0
    assert machine.show(CAPTURE, "ActiveState") == "failed"
    assert machine.show(APP, "ActiveState") == "inactive"
    assert "--exclude 'nonsense': neither an address" in journal(machine, CAPTURE)
    assert "curl" not in journal(machine, APP)

    options(machine, "--mode nft")
    machine.systemctl("start", APP)
    assert machine.show(APP, "Slice") == "captured-orders-itself.slice"
    wait_until(lambda: carried(machine) == 1, "the access log")

    # services come and go, in new cgroups; what is captured is their slice
    machine.systemctl("restart", APP)
    machine.systemctl("restart", PROXY)
    machine.systemctl("restart", APP)
    wait_until(lambda: carried(machine) == 3, "the access log")

    options(machine, f"--mode nft --exclude {FAR}")
    machine.systemctl("reload", CAPTURE)
    assert machine.run("systemctl", "restart", APP).returncode != 0
    assert carried(machine) == 3
    options(machine, "--mode nft")
    machine.systemctl("reload", CAPTURE)
    machine.systemctl("start", APP)

    machine.systemctl("mask", "--runtime", "--now", PROXY)
    assert machine.run("systemctl", "restart", APP).returncode != 0
    machine.systemctl("unmask", "--runtime", PROXY)
    machine.systemctl("start", APP)

    assert "uproxy-orders" in tables(machine)
    machine.systemctl("stop", CAPTURE)
    assert machine.show(APP, "ActiveState") == "inactive"
    assert "uproxy-orders" not in tables(machine)


@pytest.mark.parametrize("text", [None, "--mode ebpf"], ids=["default", "ebpf"])
def test_by_ebpf_the_proxy_needs_a_capability(machine: Machine, text: str | None) -> None:
    """The machine's network namespace isn't the kernel's first, so eBPF is the default."""
    if text is not None:
        options(machine, text)
    system = machine.root / "etc/systemd/system"
    drop_in = (UNITS / "captured-ebpf.conf").read_text()
    write(system / "uproxy@orders.service.d/captured-ebpf.conf", drop_in)
    machine.systemctl("daemon-reload")
    before = left(machine)

    machine.systemctl("start", APP)
    assert "mode ebpf" in journal(machine, CAPTURE)
    wait_until(lambda: carried(machine) == 1, "the access log")
    machine.systemctl("restart", PROXY)
    machine.systemctl("restart", APP)
    wait_until(lambda: carried(machine) == 2, "the access log")
    machine.systemctl("reload", CAPTURE)
    machine.systemctl("restart", APP)
    wait_until(lambda: carried(machine) == 3, "the access log")
    state = machine.run("/usr/local/bin/uproxy", "capture", "status")
    assert (state.returncode, "attached" in state.stdout) == (0, True), state.stdout

    machine.systemctl("mask", "--runtime", "--now", PROXY)
    assert machine.run("systemctl", "restart", APP).returncode != 0
    machine.systemctl("stop", CAPTURE)
    assert left(machine) == before


def test_by_ebpf_without_the_capability_no_connection_gets_out(machine: Machine) -> None:
    machine.systemctl("start", CAPTURE)
    assert machine.run("systemctl", "start", APP).returncode != 0
    assert carried(machine) == 0
    state = machine.run("/usr/local/bin/uproxy", "capture", "status")
    assert "isn't transparent" in state.stdout, state.stdout


def left(machine: Machine) -> str:
    """Return what a capture by eBPF would leave."""
    shown = (
        machine.run("ip", "rule"),
        machine.run("ip", "-6", "rule"),
        machine.run("find", "/sys/fs/bpf", "-type", "f"),
        machine.run("sysctl", "net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect"),
    )
    return "\n".join(each.stdout for each in shown)


def test_an_application_is_captured_for_itself_whatever_the_dashes_in_its_name(
    machine: Machine,
) -> None:
    options(machine, "--mode nft")
    options(machine, "--mode nft --outbound-port 15011", BELOW)
    proxy = f"uproxy@{BELOW}.service"
    machine.systemctl("start", f"{BELOW}.service")
    wait_until(lambda: carried(machine, proxy) == 1, "the access log")
    machine.systemctl("start", APP)
    wait_until(lambda: carried(machine) == 1, "the access log")
    # the rules that came last are asked first
    machine.systemctl("restart", f"{BELOW}.service")
    wait_until(lambda: carried(machine, proxy) == 2, "the access log")
    assert carried(machine) == 1


def test_nftables_service_flushes_no_capture_for_good(machine: Machine) -> None:
    options(machine, "--mode nft")
    machine.systemctl("start", "nftables.service")
    machine.systemctl("start", APP)
    wait_until(lambda: carried(machine) == 1, "the access log")

    machine.systemctl("restart", "nftables.service")
    wait_until(lambda: carried(machine) == 2, "the application to be restarted, captured")
    wait_until(lambda: machine.show(APP, "ActiveState") == "active", "the application")

    machine.systemctl("reload", "nftables.service")
    wait_until(lambda: "uproxy-orders" in tables(machine), "capture to be attached again")
    machine.systemctl("restart", APP)
    wait_until(lambda: carried(machine) == 3, "the access log")

    machine.systemctl("stop", "nftables.service")
    wait_until(lambda: machine.show(APP, "ActiveState") == "inactive", "the application to stop")
    assert machine.show(CAPTURE, "ActiveState") == "inactive"
