"""TLS scanners run against a loopback port: sslyze, nmap's scripts, testssl.sh.

Each function returns what the program found.  sslyze has an environment of its own under
.cache/sslyze, because it needs an older `cryptography`; the others are the distribution's.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uproxy.lab.identities import IdentityFiles

_SSLYZE = Path(__file__).parents[2] / ".cache" / "sslyze" / "bin" / "sslyze"
_TIMEOUT_S = 240.0
"""Seconds."""

_PROBES = (
    "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression",
    "--early_data", "--elliptic_curves", "--ems", "--fallback", "--heartbleed", "--openssl_ccs",
    "--reneg", "--resum", "--robot",
)  # fmt: skip
_SCRIPTS = (
    "ssl-enum-ciphers", "ssl-ccs-injection", "ssl-dh-params", "ssl-heartbleed", "ssl-poodle",
    "sslv2", "sslv2-drown", "tls-alpn", "tls-nextprotoneg", "tls-ticketbleed",
)  # fmt: skip


def sslyze(port: int, identity: IdentityFiles, folder: Path) -> dict[str, Any]:
    """Return the result of each of sslyze's scans, by the scan's name; it presents `identity`.

    Raises:
        AssertionError: a scan failed.
        FileNotFoundError: sslyze isn't installed; `make test` installs it.
    """
    out = folder / "sslyze.json"
    _run(
        [_SSLYZE, f"--json_out={out}", "--mozilla_config", "disable", "--cert", identity.svid,
         "--key", identity.key, *_PROBES, f"127.0.0.1:{port}"]
    )  # fmt: skip
    (result,) = json.loads(out.read_text())["server_scan_results"]
    probes = result["scan_result"]
    scheduled = {name: each for name, each in probes.items() if each["status"] != "NOT_SCHEDULED"}
    failed = {name: each for name, each in scheduled.items() if each["status"] != "COMPLETED"}
    assert not failed, failed
    assert len(scheduled) == len(_PROBES)
    return {name: each["result"] for name, each in scheduled.items()}


def accepted_ciphers(found: dict[str, Any]) -> dict[str, set[str]]:
    """Return the accepted ciphers by TLS version, from the result of `sslyze`."""
    versions = {
        name.removesuffix("_cipher_suites"): {
            each["cipher_suite"]["name"] for each in result["accepted_cipher_suites"]
        }
        for name, result in found.items()
        if name.endswith("_cipher_suites")
    }
    return {version: ciphers for version, ciphers in versions.items() if ciphers}


def nmap(port: int) -> str:
    """Return the output of nmap's TLS scripts, each of which is forced to run."""
    scripts = ",".join(f"+{each}" for each in _SCRIPTS)
    argv = ["nmap", "-Pn", "-n", "-sT", "-p", port, "--script", scripts]
    return _run([*argv, "--script-args", "vulns.showall", "127.0.0.1"])


def nmap_versions(said: str) -> set[str]:
    """Return the TLS versions that `nmap` could negotiate."""
    return set(re.findall(r"(?m)^\|   (\S+): ?$", said.partition("ssl-enum-ciphers")[2]))


def scan_testssl(port: int, folder: Path) -> dict[str, tuple[str, str]]:
    """Return (severity, text) of each of testssl.sh's findings, by the finding's id."""
    out = folder / "testssl.json"
    _run(
        ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none",
         "--connect-timeout", "30", "--openssl-timeout", "30", "--jsonfile", out,
         "--protocols", "--server-preference", "--server-defaults", "--vulnerable",
         f"127.0.0.1:{port}"]
    )  # fmt: skip
    return {each["id"]: (each["severity"], each["finding"]) for each in json.loads(out.read_text())}


def _run(argv: Sequence[object]) -> str:
    done = subprocess.run(
        list(map(str, argv)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    )
    return done.stdout
