"""sslyze, nmap's scripts and testssl.sh scan a door for everything that TLS ever had wrong.

They find TLS 1.3, with 1.2 only where it is asked for; AEAD with forward secrecy; no
compression, no early data, no resumption that works, no renegotiation.  What testssl.sh says
about web certificates (hosts, CRLs, months) doesn't apply to SVIDs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import hostile_account
from tests.helpers.endings import metric
from tests.helpers.hostile_account import FRONTEND, open_descriptors, serves
from tests.helpers.hostile_scanners import (
    accepted_ciphers,
    nmap,
    nmap_versions,
    scan_testssl,
    sslyze,
)
from uproxy.lab.mesh import WEB, FileWorld, Inbound
from uproxy.lab.waiting import wait_until

door = hostile_account.door
classic = hostile_account.classic

TLS_1_3 = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
}
TLS_1_2 = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}

OF_THE_WEB = re.compile("cert_(chain_of_trust|expirationStatus|notAfter|revocation)|service")
"""Findings of testssl.sh about what a browser would want."""
OF_THE_SCANNER = {"engine_problem"}
"""What it misses on the machine that it runs on."""
NOT_ASKED = {"BREACH", "optimal_proto", "secure_client_renego"}
"""What it may not find out, having no certificate to show; sslyze has one."""


@contextlib.contextmanager
def scanned(uproxy: Inbound, file_world: FileWorld) -> Iterator[None]:
    """It stands it, and goes on as before."""
    descriptors = open_descriptors(uproxy)
    yield
    wait_until(lambda: metric(uproxy, "uproxy_connections") == 0, "the scanner's end", timeout=20.0)
    wait_until(lambda: open_descriptors(uproxy) == descriptors, f"{descriptors} descriptors")
    assert not [line for line in uproxy.lines if line.get("level") == "error" or "text" in line]
    serves(uproxy, file_world.ca.issue(FRONTEND))


def check_sslyze(found: dict[str, Any], curves: set[str]) -> None:
    """What holds for every version; `curves` are those for key exchange."""
    assert found["tls_compression"] == {"supports_compression": False}
    assert found["tls_1_3_early_data"] == {"supports_early_data": False}
    assert found["openssl_ccs_injection"] == {"is_vulnerable_to_ccs_injection": False}
    assert found["heartbleed"] == {"is_vulnerable_to_heartbleed": False}
    assert found["robot"] == {"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"}
    assert found["session_renegotiation"] == {
        "supports_secure_renegotiation": True,
        "is_vulnerable_to_client_renegotiation_dos": False,
        "client_renegotiations_success_count": 0,
    }
    resumption = found["session_resumption"]
    assert resumption["session_id_successful_resumptions_count"] == 0
    assert resumption["tls_ticket_successful_resumptions_count"] == 0
    # sslyze doesn't know the hybrid groups
    supported = {each["name"] for each in found["elliptic_curves"]["supported_curves"]}
    assert supported == curves
    assert found["tls_extended_master_secret"] == {"supports_ems_extension": True}


def test_sslyze_finds_tls_1_3_only(door: Inbound, file_world: FileWorld, tmp_path: Path) -> None:
    with scanned(door, file_world):
        found = sslyze(door.port, file_world.theirs(WEB), tmp_path)
    check_sslyze(found, {"X25519", "secp256r1"})
    assert accepted_ciphers(found) == {"tls_1_3": TLS_1_3}
    result = "SERVER_IS_TLS_1_3_ONLY"
    assert found["session_resumption"]["session_id_resumption_result"] == result


def test_sslyze_finds_tls_1_2_where_it_is_asked_for(
    classic: Inbound, file_world: FileWorld, tmp_path: Path
) -> None:
    with scanned(classic, file_world):
        found = sslyze(classic.port, file_world.theirs(WEB), tmp_path)
    # TLS 1.2 has one list for key exchange and for the curves of certificates (RFC 8422 §5.1), so
    # its default has those of SVIDs too: docs/reference/configuration.md, `tls.groups`
    check_sslyze(found, {"X25519", "secp256r1", "secp384r1", "secp521r1"})
    assert accepted_ciphers(found) == {"tls_1_3": TLS_1_3, "tls_1_2": TLS_1_2}
    resumption = found["session_resumption"]
    assert resumption["session_id_attempted_resumptions_count"] > 0
    assert resumption["tls_ticket_attempted_resumptions_count"] > 0


def check_nmap(said: str) -> None:
    for name in ("ssl-heartbleed", "ssl-poodle", "ssl-ccs-injection"):
        assert re.search(rf"(?s)\| {name}: .*?State: NOT VULNERABLE", said), said
    assert "State: VULNERABLE" not in said
    assert "LIKELY VULNERABLE" not in said
    assert "SSLv2 supported" not in said
    compressors = set(re.findall(r"compressors: \n\|\s+(\S+)", said))
    assert compressors <= {"NULL"}
    assert "least strength: A" in said


def test_nmap_finds_tls_1_3_only(door: Inbound, file_world: FileWorld) -> None:
    with scanned(door, file_world):
        said = nmap(door.port)
    check_nmap(said)
    assert nmap_versions(said) == {"TLSv1.3"}


def test_nmap_finds_tls_1_2_where_it_is_asked_for(classic: Inbound, file_world: FileWorld) -> None:
    with scanned(classic, file_world):
        said = nmap(classic.port)
    check_nmap(said)
    assert nmap_versions(said) == {"TLSv1.2", "TLSv1.3"}


def check_testssl(found: dict[str, tuple[str, str]]) -> None:
    """Nothing that it would mend but in what is the web's."""
    bad = {
        name: told
        for name, told in found.items()
        if told[0] not in ("OK", "INFO") and not OF_THE_WEB.fullmatch(name)
    }
    assert set(bad) <= NOT_ASKED | OF_THE_SCANNER, bad
    for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert found[name][1] == "not offered"
    assert found["sessionresumption_ticket"][1] == "not supported"
    assert "no resumption" in found["sessionresumption_ID"][1]
    for name in ("heartbleed", "CCS", "CRIME_TLS", "POODLE_SSL", "FREAK", "LUCKY13", "RC4"):
        assert found[name][0] == "OK"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_testssl_finds_tls_1_3_only(door: Inbound, file_world: FileWorld, tmp_path: Path) -> None:
    with scanned(door, file_world):
        found = scan_testssl(door.port, tmp_path)
    check_testssl(found)
    assert found["TLS1_2"][1] == "not offered"
    assert found["TLS1_3"][0] == "OK"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_testssl_finds_tls_1_2_where_it_is_asked_for(
    classic: Inbound, file_world: FileWorld, tmp_path: Path
) -> None:
    with scanned(classic, file_world):
        found = scan_testssl(classic.port, tmp_path)
    check_testssl(found)
    assert found["TLS1_2"][0] == found["TLS1_3"][0] == "OK"
