"""Certificates and keys as easy-rsa, openssl and people make them: they work, or uProxy refuses
them at start and in `uproxy check` with the way out.  Files that come late are waited for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from tests.helpers import dialogue
from tests.helpers.dialogue import ask, open_connection, refused
from tests.helpers.odd_certificates import generalized_time, rsassa_pss, with_generalized_time
from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.mesh import ORDERS, WEB, Inbound, Outbound, by_files
from uproxy.lab.pki import Authority
from uproxy.lab.software.peers import SServer
from uproxy.lab.waiting import wait_until

CA = Authority("example.org")
ORDERS_PATH, WEB_PATH = "/ns/shop/sa/orders", "/ns/web/sa/frontend"

EXTENSIONS = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always,issuer:always
keyUsage = cRLSign,keyCertSign
[bare]
basicConstraints = CA:TRUE
[constrained]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
nameConstraints = critical,permitted;URI:example.org
[leaf]
basicConstraints = CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid,issuer:always
extendedKeyUsage = serverAuth,clientAuth
keyUsage = digitalSignature
subjectAltName = URI:${ENV::ID}
"""


class OpenSsl:
    """A CA of the openssl command: roots, intermediates and leaves by name."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.folder = folder
        self.key = ["-newkey", algorithm, "-nodes"]
        (folder / "x.cnf").write_text(EXTENSIONS)

    def root(self, name: str, extensions: str) -> None:
        self._run("req", "-x509", *self.key, "-days", "30", "-subj", f"/CN={name}", "-keyout",
                  f"{name}.key", "-out", f"{name}.pem", "-config", "x.cnf",
                  "-extensions", extensions)  # fmt: skip

    def issue(self, name: str, issuer: str, extensions: str, of: str = "spiffe://a/b") -> None:
        self._run("req", "-new", *self.key, "-subj", f"/CN={name}", "-config", "x.cnf",
                  "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem", "-CAkey",
                  f"{issuer}.key", "-CAcreateserial", "-days", "7", "-extfile", "x.cnf",
                  "-extensions", extensions, "-out", f"{name}.pem", of=of)  # fmt: skip

    def files(self, name: str, root: str, *above: str) -> IdentityFiles:
        svid, key, bundle = (self.folder / f"{name}.{end}" for end in ("chain", "key", "roots"))
        svid.write_bytes(b"".join((self.folder / f"{n}.pem").read_bytes() for n in (name, *above)))
        bundle.write_bytes((self.folder / f"{root}.pem").read_bytes())
        return IdentityFiles(svid, key, bundle)

    def _run(self, *words: str, of: str = "spiffe://a/b") -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True,
                       env={**os.environ, "ID": of})  # fmt: skip


@pytest.mark.parametrize(
    ("root", "algorithm"),
    [
        ("ca", "rsa:2048"),
        ("constrained", "ed25519"),
        pytest.param("ca", "ed25519", marks=pytest.mark.slow),
        pytest.param("bare", "rsa:2048", marks=pytest.mark.slow),
        pytest.param("bare", "ed25519", marks=pytest.mark.slow),
        pytest.param("constrained", "rsa:2048", marks=pytest.mark.slow),
    ],
)
def test_authorities_of_the_openssl_command_work(
    tmp_path: Path, echo_app: int, root: str, algorithm: str
) -> None:
    ca = OpenSsl(tmp_path, algorithm)
    ca.root("root", root)
    ca.issue("orders", "root", "leaf", ORDERS)
    ca.issue("below", "root", "ca")
    ca.issue("web", "below", "leaf", WEB)
    ours, web = ca.files("orders", "root"), ca.files("web", "root", "below")
    with Inbound(tmp_path, by_files(ours), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, web):
            pass
        if root == "constrained":
            ca.issue("other", "below", "leaf", "spiffe://example.org.other.test/a")
            refused(uproxy.port, ca.files("other", "root", "below"))
    with (
        SServer(tmp_path, ca.files("orders", "root")) as server,
        Outbound(tmp_path, by_files(web), server.port) as uproxy,
    ):
        uproxy.wait_until_ready()
        assert ask(uproxy.port) == b"olleh\n"


@pytest.mark.parametrize("of_root", [False, True], ids=["leaf", "root"])
def test_dates_in_generalized_time_work(tmp_path: Path, echo_app: int, of_root: bool) -> None:
    root = with_generalized_time(CA.root, CA.key) if of_root else CA.root
    bundle = root.public_bytes(Encoding.PEM)
    issued = [CA.issue(ORDERS_PATH), CA.issue(WEB_PATH)]
    ours, theirs = issued if of_root else [generalized_time(each, CA) for each in issued]
    files = write_identity(tmp_path / "ours", ours, bundle)
    with Inbound(tmp_path, by_files(files), echo_app) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, write_identity(tmp_path / "theirs", theirs, bundle)):
            pass


@pytest.mark.parametrize("kind", ["p384", pytest.param("p521", marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["-tls1_2", pytest.param("-tls1_3", marks=pytest.mark.slow)])
def test_svids_on_larger_curves_work_in_both_versions_of_tls(
    tmp_path: Path, echo_app: int, kind: str, version: str
) -> None:
    orders = write_identity(tmp_path / "orders", CA.issue(ORDERS_PATH, key=kind), CA.pem)
    web = write_identity(tmp_path / "web", CA.issue(WEB_PATH, key=kind), CA.pem)
    tls = {"min_version": "1.2"}
    with Inbound(tmp_path, by_files(orders), echo_app, tls=tls) as uproxy:
        uproxy.wait_until_ready()
        with dialogue.s_client(uproxy.port, web, version) as client:
            client.type(b"hello\n")
            client.receive("(?m)^hello$")
    with (
        SServer(tmp_path, orders, ("-rev", version)) as server,
        Outbound(tmp_path, by_files(web), server.port, tls=tls) as uproxy,
    ):
        uproxy.wait_until_ready()
        assert ask(uproxy.port) == b"olleh\n"


def test_a_curve_that_was_left_out_is_told_with_the_way_out(tmp_path: Path, echo_app: int) -> None:
    orders = write_identity(tmp_path / "orders", CA.issue(ORDERS_PATH), CA.pem)
    web = write_identity(tmp_path / "web", CA.issue(WEB_PATH, key="p384"), CA.pem)
    tls = {"min_version": "1.2", "groups": ["X25519", "P-256"]}
    with Inbound(tmp_path, by_files(orders), echo_app, tls=tls) as uproxy:
        uproxy.wait_until_ready()
        refused(uproxy.port, web, "-tls1_2")
        wait_until(lambda: uproxy.accesses, "the refusal")
        assert "a curve that tls.groups leaves out" in uproxy.accesses[0]["error"]
        with open_connection(uproxy.port, web):
            pass


def ended(command: str, config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "uproxy", command, "--config", config],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["p224", "secp256k1", "rsa1024", "dsa", "rsa-pss"])
def test_a_key_of_ours_that_tls_can_not_use_is_refused_at_start_with_the_way_out(
    tmp_path: Path, kind: str
) -> None:
    files = write_identity(tmp_path / "ours", CA.issue(ORDERS_PATH), CA.pem)
    if kind == "rsa-pss":
        key, svid = rsassa_pss(CA, tmp_path)
        files.svid.write_bytes(svid)
        files.key.write_bytes(key)
    else:
        issued = CA.issue(ORDERS_PATH, key=kind)
        write_identity(tmp_path / "ours", issued, CA.pem)
    config = tmp_path / "uproxy.yaml"
    config.write_text(yaml.safe_dump({"identity": by_files(files)}))
    for command in ("check", "run"):
        code, said = ended(command, config)
        assert code == 2, said
        assert "can't be used" in said
        assert "P-256" in said


@pytest.mark.parametrize("kind", ["rsa-pss", "ed448", "ed25519"])
def test_a_caller_may_have_an_unusual_key(tmp_path: Path, echo_app: int, kind: str) -> None:
    orders = write_identity(tmp_path / "orders", CA.issue(ORDERS_PATH), CA.pem)
    caller = "spiffe://example.org/ns/default/sa/workload"
    issued = CA.issue("/ns/default/sa/workload", key="p256" if kind == "rsa-pss" else kind)
    theirs = write_identity(tmp_path / "theirs", issued, CA.pem)
    if kind == "rsa-pss":
        key, svid = rsassa_pss(CA, tmp_path)
        theirs.svid.write_bytes(svid)
        theirs.key.write_bytes(key)
    with Inbound(tmp_path, by_files(orders), echo_app, allow=[caller]) as uproxy:
        uproxy.wait_until_ready()
        with open_connection(uproxy.port, theirs):
            pass


def missing(files: IdentityFiles) -> None:
    files.svid.unlink()
    files.key.unlink()


def half_written(files: IdentityFiles) -> None:
    files.svid.write_bytes(files.svid.read_bytes()[:200])


def of_two_issuances(files: IdentityFiles) -> None:
    files.svid.write_bytes(CA.issue(ORDERS_PATH).pem)


def expired(files: IdentityFiles) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    issued = CA.issue(ORDERS_PATH, not_before=past - timedelta(hours=1), not_after=past)
    write_identity(files.svid.parent, issued, CA.pem)


def without_a_bundle(files: IdentityFiles) -> None:
    files.bundle.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (missing, "no such file"),
        (expired, "have it renewed"),
        (without_a_bundle, "no certificate of example.org is trusted"),
        pytest.param(half_written, "not a certificate chain", marks=pytest.mark.slow),
        pytest.param(of_two_issuances, "from the same issuance", marks=pytest.mark.slow),
    ],
    ids=["missing", "expired", "without a bundle", "half written", "half replaced"],
)
def test_files_that_come_late_are_waited_for(
    tmp_path: Path, echo_app: int, spoil: Callable[[IdentityFiles], None], reason: str
) -> None:
    files = write_identity(tmp_path / "ours", CA.issue(ORDERS_PATH), CA.pem)
    web = write_identity(tmp_path / "web", CA.issue(WEB_PATH), CA.pem)
    spoil(files)
    with Inbound(tmp_path, by_files(files), echo_app) as uproxy:
        wait_until(lambda: uproxy.status("/readyz") == 503, "it to run and not be ready")
        assert reason in uproxy.request("/readyz")[1]
        code, said = ended("check", uproxy.config_file)
        assert (code, reason in said) == (2, True), said
        refused(uproxy.port, web)

        write_identity(tmp_path / "ours", CA.issue(ORDERS_PATH), CA.pem)
        uproxy.wait_until_ready(5)
        with open_connection(uproxy.port, web):
            pass
