"""Which commands there are, and what all of them take."""

from __future__ import annotations

COMMANDS = {
    "run": "run in the foreground; SIGTERM drains, SIGHUP reloads",
    "check": "validate a configuration and print every mistake",
    "authority": "serve development identities on a real SPIFFE Workload API",
    "demo": "two workloads talk through two uProxies, on this machine, now",
    "status": "what a running uProxy is doing",
    "explain": "what became of a caller's last attempts, and the YAML to add",
    "capture": "bring a workload's connections to its uProxy, by eBPF or nft",
    "schema": "print the JSON Schema of the configuration",
    "version": "versions of uProxy, Python, OpenSSL and the kernel",
    "completion": "print the completion script of a shell",
    "manual": "print the man page",
}

LOG_LEVELS = ("debug", "info", "warning", "error")
"""What `--log-level` takes."""
