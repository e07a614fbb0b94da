"""`uproxy version`: prints the versions of uProxy and what it runs on, for bug reports."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

from uproxy import __version__, libssl

_FEATURES = {
    "btf": Path("/sys/kernel/btf/vmlinux"),
    "cgroup2": Path("/sys/fs/cgroup/cgroup.controllers"),
    "bpffs": Path("/sys/fs/bpf"),
}
"""Kernel features, and the path that exists if the kernel has one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `version` has no arguments."""


def run(args: argparse.Namespace) -> int:  # noqa: ARG001  every command has this shape
    """Print one line for each component."""
    found = [name for name, path in _FEATURES.items() if path.exists()]
    print(f"uproxy {__version__}")
    print(f"python {platform.python_version()} ({platform.python_implementation()})")
    print(f"{libssl.check().openssl} inside cryptography {version('cryptography')}")
    print(f"kernel {platform.release()} ({platform.machine()}): {' '.join(found) or 'no features'}")
    return 0
