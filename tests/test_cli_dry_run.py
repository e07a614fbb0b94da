"""`uproxy check --as ID --to DOOR` decides as a running uProxy does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from uproxy.cli import main
from uproxy.cli.dry_run import REFUSED
from uproxy.lab.pki import Authority

WEB = "spiffe://example.org/ns/web/sa/frontend"

CONFIGURATION = """
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
inbound:
  - {name: api, listen: "127.0.0.1:8443", transport: mtls, to: 127.0.0.1:8080}
  - {name: open, listen: "127.0.0.1:8081", transport: plaintext, to: 127.0.0.1:8082}
authorization:
  - {name: web, action: allow, from: {namespaces: [web]}, to: {ports: [8080]}}
  - {name: far, action: deny, from: {cidrs: [10.0.0.0/8]}}
  - {name: soon, action: deny, from: {identities: ["spiffe://example.org/**"]}, mode: shadow}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    authority = Authority("example.org")
    issued = authority.issue("/ns/shop/sa/orders")
    (tmp_path / "svid.pem").write_bytes(issued.pem)
    (tmp_path / "svid.key").write_bytes(issued.key_pem)
    (tmp_path / "bundle.pem").write_bytes(authority.pem)
    (tmp_path / "orders.yaml").write_text(CONFIGURATION)
    return tmp_path / "orders.yaml"


def check(file: Path, *words: str) -> int:
    return main(["check", str(file), *words])


def test_who_is_allowed_is_told_by_which_rule(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--as", WEB, "--to", "api:8080", "--from", "192.0.2.1")
    assert check(file, *asked) == 0
    out = capsys.readouterr().out
    assert f"rule web allows {WEB} to port 8080 at door api" in out
    assert "shadow rule soon would deny" in out


@pytest.mark.parametrize("door", ["api", "127.0.0.1:8443", "api:8080", "127.0.0.1:8443:8080"])
def test_a_door_is_named_by_its_name_or_its_address(file: Path, door: str) -> None:
    assert check(file, "--as", WEB, "--to", door, "--from", "192.0.2.1") == 0


def test_an_address_that_is_not_given_is_refused_as_a_running_uproxy_refuses_the_unknown(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(file, "--as", WEB, "--to", "api") == REFUSED
    assert "say where the caller comes from with --from" in capsys.readouterr().out
    assert check(file, "--as", WEB, "--to", "api", "--from", "10.1.2.3") == REFUSED
    assert f"rule far denies {WEB}" in capsys.readouterr().out


def test_what_is_suggested_lets_the_caller_in(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--as", "spiffe://example.org/ns/ops/sa/backup", "--to", "api", "--from", "192.0.2.1")
    assert check(file, *asked) == REFUSED
    out = capsys.readouterr().out
    assert out.startswith("no rule allows spiffe://example.org/ns/ops/sa/backup to port 8080")
    suggested = yaml.safe_load(out[out.index("authorization:") :])
    document = yaml.safe_load(CONFIGURATION)
    document["authorization"] += suggested["authorization"]
    file.write_text(yaml.safe_dump(document))
    assert check(file, *asked) == 0


def test_a_trust_domain_without_a_bundle_is_refused_before_any_rule(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(file, "--as", "spiffe://stranger.test/a", "--to", "api") == REFUSED
    assert "no bundle for the trust domain stranger.test" in capsys.readouterr().out


def test_a_plaintext_door_proves_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, "--as", WEB, "--to", "open", "--from", "192.0.2.1") == REFUSED
    out = capsys.readouterr().out
    assert "no rule allows a caller without an identity" in out
    assert "door open is plaintext" in out
    assert "authorization:" not in out


def test_without_a_known_trust_domain_namespaces_allow_nobody_and_it_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(CONFIGURATION)
    document["identity"] = {"workload_api": "unix:///run/agent.sock"}
    (tmp_path / "orders.yaml").write_text(yaml.safe_dump(document))
    asked = ("--as", WEB, "--to", "api", "--from", "192.0.2.1")
    assert check(tmp_path / "orders.yaml", *asked) == REFUSED
    assert "our own trust domain isn't known" in capsys.readouterr().out
    document["identity"]["spiffe_id"] = "spiffe://example.org/ns/shop/sa/orders"
    (tmp_path / "orders.yaml").write_text(yaml.safe_dump(document))
    assert check(tmp_path / "orders.yaml", *asked) == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--as", WEB), "--as and --to belong together"),
        (("--to", "api"), "--as and --to belong together"),
        (("--from", "10.0.0.1"), "--from says where a caller comes from"),
        (("--as", "web", "--to", "api"), "--as 'web': "),
        (("--as", "spiffe://example.org", "--to", "api"), "not a workload"),
        (("--as", WEB, "--to", "api", "--from", "here"), "--from 'here' is no IP address"),
        (("--as", WEB, "--to", "nowhere"), "--to 'nowhere' is no inbound door; there is api, open"),
        (("--as", WEB, "--to", "api:9"), "door api leads to 127.0.0.1:8080 alone"),
    ],
)
def test_a_question_that_makes_no_sense_is_wrong_usage(
    file: Path, words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(file, *words) == 2
    assert complaint in capsys.readouterr().err


def test_the_rules_of_one_file_are_asked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, str(file), "--as", WEB, "--to", "api") == 2
    assert "--as asks the rules of one file" in capsys.readouterr().err


TUNNELS = """
identity: {workload_api: unix:///run/agent.sock, spiffe_id: spiffe://example.org/ns/shop/sa/orders}
inbound:
  - {name: api, listen: "[::]:15008", transport: hbone, ports: [8080, 5432]}
  - {name: one, listen: "10.0.0.7:15009", transport: hbone, ports: [9]}
  - {name: any, listen: "10.0.0.7:15010", transport: hbone, ports: all}
authorization:
  - {name: web, action: allow, from: {namespaces: [web]}, to: {ports: [5432, 9, 22]}}
"""


CAPTURED = """
identity: {workload_api: unix:///run/agent.sock, spiffe_id: spiffe://example.org/ns/shop/sa/orders}
inbound:
  - {name: api, listen: "[::]:15006", captured: true, ports: {8080: mtls, 3306: plaintext}}
authorization:
  - {name: web, action: allow, from: {namespaces: [web]}, to: {ports: [8080, 3306]}}
"""


@pytest.mark.parametrize(
    ("to", "code", "words"),
    [
        ("api:8080", 0, f"rule web allows {WEB} to port 8080 at door api"),
        ("api:3306", REFUSED, "door api is plaintext, so its callers prove no identity"),
        ("api:22", 2, "through door api go ports 8080 mtls, 3306 plaintext alone"),
        ("api", 2, "which port? --to api:PORT"),
    ],
)
def test_a_door_for_capture_is_asked_by_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, code: int, words: str
) -> None:
    (tmp_path / "captured.yaml").write_text(CAPTURED)
    assert check(tmp_path / "captured.yaml", "--as", WEB, "--to", to) == code
    told = capsys.readouterr()
    assert words in told.out + told.err


def test_what_is_suggested_for_a_captured_port_opens_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, document = tmp_path / "captured.yaml", yaml.safe_load(CAPTURED)
    document["inbound"][0]["ports"][5432] = "mtls"
    document["authorization"][0]["to"]["ports"] = [3306]
    file.write_text(yaml.safe_dump(document))
    assert check(file, "--as", WEB, "--to", "api:8080") == REFUSED
    out = capsys.readouterr().out
    suggested = yaml.safe_load(out[out.index("authorization:") :])["authorization"]
    assert suggested[0]["to"] == {"inbound": ["api"], "ports": [8080]}
    document["authorization"] += suggested
    file.write_text(yaml.safe_dump(document))
    assert check(file, "--as", WEB, "--to", "api:8080") == 0
    assert check(file, "--as", WEB, "--to", "api:5432") == REFUSED


@pytest.fixture
def tunnels(tmp_path: Path) -> Path:
    (tmp_path / "tunnels.yaml").write_text(TUNNELS)
    return tmp_path / "tunnels.yaml"


def test_behind_a_door_for_tunnels_a_rule_is_asked_about_a_port(
    tunnels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tunnels, "--as", WEB, "--to", "api:5432") == 0
    assert f"rule web allows {WEB} to port 5432 at door api" in capsys.readouterr().out
    assert check(tunnels, "--as", WEB, "--to", "one") == 0  # its only one
    assert check(tunnels, "--as", WEB, "--to", "[::]:15008:5432") == 0
    assert check(tunnels, "--as", WEB, "--to", "any:22") == 0


def test_what_is_suggested_for_a_tunnel_is_for_its_port(
    tunnels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tunnels, "--as", WEB, "--to", "api:8080") == REFUSED
    out = capsys.readouterr().out
    suggested = yaml.safe_load(out[out.index("authorization:") :])["authorization"]
    assert suggested[0]["to"] == {"inbound": ["api"], "ports": [8080]}
    document = yaml.safe_load(TUNNELS)
    document["authorization"] += suggested
    tunnels.write_text(yaml.safe_dump(document))
    assert check(tunnels, "--as", WEB, "--to", "api:8080") == 0


@pytest.mark.parametrize(
    ("to", "complaint"),
    [
        ("api", "which port? --to api:PORT, of ports 8080, 5432"),
        ("any", "which port? --to any:PORT, of all ports"),
        ("api:22", "through door api go ports 8080, 5432 alone"),
    ],
)
def test_a_port_that_tunnels_do_not_reach_is_wrong_usage(
    tunnels: Path, capsys: pytest.CaptureFixture[str], to: str, complaint: str
) -> None:
    assert check(tunnels, "--as", WEB, "--to", to) == 2
    assert complaint in capsys.readouterr().err


def test_a_rule_about_addresses_is_decided_where_tunnels_can_arrive_at_one_alone(
    tunnels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(TUNNELS)
    document["authorization"][0]["to"] = {"addresses": ["10.0.0.0/24"]}
    tunnels.write_text(yaml.safe_dump(document))
    assert check(tunnels, "--as", WEB, "--to", "one:9") == 0
    assert check(tunnels, "--as", WEB, "--to", "api:8080") == REFUSED
    assert "the address that a tunnel names, which isn't known here" in capsys.readouterr().out


# Through an L7 proxy.

L7 = "spiffe://example.org/ns/mesh/sa/l7"
THROUGH = """
identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}
inbound:
  - {name: mesh, listen: "10.0.0.2:15008", transport: hbone, ports: [8080]}
  - {name: api, listen: "127.0.0.1:8443", transport: mtls, to: 127.0.0.1:8080}
inbound_trust:
  l7:
    identities: [spiffe://example.org/ns/mesh/sa/l7]
    speaks_for: ["spiffe://example.org/ns/web/**"]
    require_proof: true
authorization:
  - {name: web, action: allow, from: {namespaces: [web], via: [l7]}, to: {inbound: [mesh]}}
"""


@pytest.fixture
def through(file: Path) -> Path:
    file.write_text(THROUGH)
    return file


def test_a_caller_via_an_l7_proxy_is_allowed_where_a_rule_names_that(
    through: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(through, "--as", WEB, "--via", "l7", "--to", "mesh") == 0
    out = capsys.readouterr().out
    assert f"rule web allows {WEB} via l7 to port 8080 at door mesh" in out
    assert "inbound_trust.l7 requires the caller's proof besides" in out


def test_the_same_caller_without_it_is_told_the_way_and_no_rule_to_add(
    through: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(through, "--as", WEB, "--to", "mesh") == REFUSED
    out = capsys.readouterr().out
    assert "rule web allows it via l7 only" in out
    assert "add" not in out


def test_a_rule_to_add_for_a_caller_via_an_l7_proxy_names_it(
    through: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    through.write_text(THROUGH.replace("namespaces: [web]", "namespaces: [shop]"))
    assert check(through, "--as", WEB, "--via", "l7", "--to", "mesh") == REFUSED
    added = capsys.readouterr().out.partition("add\n")[2]
    [rule] = yaml.safe_load(added)["authorization"]
    assert rule["from"] == {"identities": [WEB], "via": ["l7"]}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--as", "spiffe://example.org/ns/shop/sa/a", "--via", "l7"), "may not speak for"),
        (("--as", L7, "--via", "l7"), "doesn't say for whom it connects"),
        (("--as", L7), "doesn't say for whom it connects"),
    ],
)
def test_whom_a_proxy_may_not_speak_for_is_refused(
    through: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert check(through, *words, "--to", "mesh") == REFUSED
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ("--via", "envoy", "--to", "mesh"),
            "--via 'envoy' is no key of inbound_trust; there is l7",
        ),
        (("--via", "l7", "--to", "api"), "come through tunnels, and door api is mtls"),
    ],
)
def test_a_way_that_isnt_there_is_wrong_usage(
    through: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert check(through, "--as", WEB, *words) == 2
    assert reason in capsys.readouterr().err


def test_a_way_without_a_caller_is_wrong_usage(
    through: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(through, "--via", "l7") == 2
    assert "--via says how a caller comes" in capsys.readouterr().err
