"""Describes the machine and the versions with which figures were measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from uproxy import __version__, libssl
from uproxy.lab.software.golang import find_go, peer

_ROOT = Path(__file__).parents[2]


def describe() -> dict[str, str]:
    """Return names and values in the order to be shown; the date is in UTC."""
    openssl = libssl.check().openssl.removeprefix("OpenSSL ")
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "CPU": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "load average before": load,
        "kernel": platform.release(),
        "uProxy": f"{__version__} ({_commit()})",
        "Python": platform.python_version(),
        "OpenSSL": f"{openssl} (cryptography {version('cryptography')})",
        **_peers(),
    }


def _peers() -> dict[str, str]:
    """Return the versions of the compared programs, as they print them."""
    envoy = _output_of(str(Path(sys.executable).parent / "envoy"), "--version")
    haproxy = _output_of("haproxy", "-vv")
    ghostunnel = _output_of(str(find_go()), "version", "-m", str(peer("ghostunnel")))
    go = ghostunnel.partition(": ")[2].split()[0]
    return {
        "Envoy": envoy.rpartition("version: ")[2].split("/")[1],
        "HAProxy": f"{haproxy.partition('version ')[2].split()[0]} "
        f"({haproxy.partition('Running on OpenSSL version : ')[2].splitlines()[0]})",
        "ghostunnel": ghostunnel.partition("ghostunnel/ghostunnel\tv")[2].split()[0] + f" ({go})",
    }


def _commit() -> str:
    """Return the commit of `uproxy/`; benchmarks change files beside it."""
    git = ["git", "-C", str(_ROOT)]
    try:
        commit = _output_of(*git, "rev-parse", "--short", "HEAD")
        changed = _output_of(*git, "status", "--porcelain", "--", "uproxy")
    except (OSError, subprocess.CalledProcessError):
        return "no commit known"
    return f"{commit}, with changes" if changed else commit


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _output_of(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()
