"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness.proxies import versions
from uproxy import __version__, libssl


def describe() -> dict[str, str]:
    """Name to value, in the order to be read; the date is the day's in UTC."""
    openssl = libssl.check().openssl.removeprefix("OpenSSL ")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "CPU": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "uProxy": f"{__version__}, engine in Python",
        "Python": platform.python_version(),
        "OpenSSL": f"{openssl} (cryptography {version('cryptography')})",
        **versions(),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
