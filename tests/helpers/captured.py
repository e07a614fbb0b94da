"""A network namespace in which nft redirects connections, as capture does.

A test module runs itself in there: `inside(__name__)` calls its `__main__`, which calls `network`
first.  Needs user and network namespaces, and nft.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uproxy.originals import CAPTURE_MARK

ROOT = Path(__file__).parents[2]
OURS = ("192.0.2.1", "2001:db8::1")
"""The addresses of the namespace."""

REDIRECT = """
table inet capture {
  chain output {
    type nat hook output priority -100
    ip daddr 198.51.100.0/24 meta l4proto tcp redirect to :15001
    ip6 daddr 2001:db8:1::/64 meta l4proto tcp redirect to :15001
  }
}
"""
"""Everything that is made to two networks elsewhere comes to port 15001."""

TRANSPARENTLY = """
table inet capture {
  chain prerouting {
    type filter hook prerouting priority mangle
    ip daddr 198.51.100.0/24 meta l4proto tcp tproxy ip to :15001
    ip6 daddr 2001:db8:1::/64 meta l4proto tcp tproxy ip6 to :15001
  }
}
"""
"""The same without a rewritten address, as eBPF does it."""


def inside(module: str, *arguments: str) -> str:
    """Return what `python -m module` prints in a namespace of its own; skip where there is none."""
    if shutil.which("nft") is None:
        pytest.skip("needs nft")
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", module, *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    if "unshare failed" in ran.stderr:
        pytest.skip("needs user and network namespaces")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def network(rules: str = "", *, is_local: bool = False) -> None:
    """Give the namespace its addresses, a way to everywhere, and rules of nft; with `is_local` the
    two networks of the rules are reached without leaving it."""
    _run("ip", "link", "set", "lo", "up")
    for address in OURS:
        _run("ip", "addr", "add", address, "dev", "lo", *_at_once(address))
    _run("ip", "route", "add", "default", "dev", "lo", "src", OURS[0])
    _run("ip", "-6", "route", "add", "default", "dev", "lo", "src", OURS[1])
    if is_local:
        _run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo", "src", OURS[0])
        _run("ip", "-6", "route", "add", "local", "2001:db8:1::/64", "dev", "lo", "src", OURS[1])
    if rules:
        redirect(rules)


def redirect(rules: str) -> None:
    """Add rules of nft to this namespace."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def cable(pid: int) -> None:
    """Connect this namespace with that of a process, which is to call `reached_by_cable`."""
    _run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(pid))
    _run("ip", "link", "set", "here", "up")
    for family, address in zip(("-4", "-6"), OURS, strict=True):
        # an interface answers who asks for its own addresses alone (IPv6)
        _run("ip", "addr", "del", address, "dev", "lo")
        _run("ip", "addr", "add", address, "dev", "here", *_at_once(address))
        _run("ip", family, "route", "replace", "default", "dev", "here", "src", address)


def reached_by_cable(*addresses: str) -> None:
    """Give this namespace addresses that the one at the other end of the cable reaches."""
    for link in ("lo", "there"):
        _run("ip", "link", "set", link, "up")
    for address in addresses:
        _run("ip", "addr", "add", address, "dev", "there", *_at_once(address))
    for family, address in zip(("-4", "-6"), OURS, strict=True):
        _run("ip", family, "route", "add", address, "dev", "there")


def bring_marked_home() -> None:
    """Route what is marked to loopback, as `uproxy capture attach` does."""
    for family in ("-4", "-6"):
        _run("ip", family, "rule", "add", "fwmark", hex(CAPTURE_MARK), "lookup", "7570")
        _run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "7570")
    Path("/proc/sys/net/ipv4/tcp_fwmark_accept").write_text("1")


def _at_once(address: str) -> list[str]:
    """Without looking for somebody else who has it (IPv6)."""
    return ["nodad"] if ":" in address else []


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
