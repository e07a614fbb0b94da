"""The command line: one command at a time, errors in one line, exit codes by kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from uproxy import __version__
from uproxy.cli import COMMANDS, main
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.pki import Authority

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def uproxy(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uproxy", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=60,
        check=False,
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    authority = Authority("example.org")
    issued = authority.issue("/ns/db/sa/orders")
    (tmp_path / "svid.pem").write_bytes(issued.pem)
    (tmp_path / "svid.key").write_bytes(issued.key_pem)
    (tmp_path / "bundle.pem").write_bytes(authority.pem)
    path = tmp_path / "uproxy.yaml"
    path.write_text(
        "identity: {files: {svid: svid.pem, key: svid.key, bundles: {example.org: bundle.pem}}}\n"
        "inbound: [{listen: 127.0.0.1:1, transport: mtls, to: 127.0.0.1:2}]\n"
    )
    return path


def test_every_command_is_in_the_help() -> None:
    shown = uproxy("--help").stdout
    assert [name for name in COMMANDS if name not in shown] == []


def test_a_command_that_is_not_there_is_wrong_usage() -> None:
    done = uproxy("rum")
    assert done.returncode == 2
    assert "invalid choice: 'rum'" in done.stderr


def test_without_a_command_it_is_wrong_usage() -> None:
    assert uproxy().returncode == 2


def test_check_prints_every_mistake_and_exits_2(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text("identity: {}\ninbound: [{lissten: 1}]\nnaem: x\n")
    done = uproxy("check", "--config", str(path))
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line.partition(": ")[0] for line in lines] == [
        f"{path}:1:11", *[f"{path}:2:11"] * 2, f"{path}:2:12", f"{path}:3:1",
    ]  # fmt: skip
    assert all(": error: " in line for line in lines)
    assert "did you mean 'listen'" in done.stderr
    assert "did you mean 'name'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_warning_has_the_place_of_its_setting(good: Path) -> None:
    good.write_text(good.read_text() + "timeouts:\n  drain: 0\n")
    done = uproxy("check", str(good))
    assert f"{good}:4:10: warning: timeouts.drain" in done.stderr
    assert f"{good}: warning: authorization: " in done.stderr


def test_check_takes_files_and_standard_input(good: Path) -> None:
    bad = good.parent / "bad.yaml"
    bad.write_text("name:x\ninbound: []\n")
    done = subprocess.run(
        [sys.executable, "-m", "uproxy", "check", str(bad), "-", str(good)],
        input="inbound: [*]\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert told == [
        f"{bad}:1:6: error: is not YAML: a blank is missing after the colon in 'name:x'",
        '<stdin>:1:11: error: is not YAML: text that begins with * needs quotes, as in "*"',
    ]
    assert done.stdout.startswith(f"{good}: good: 1 inbound")


def test_of_several_files_the_first_that_is_not_good_gives_the_exit_code(
    good: Path, tmp_path: Path
) -> None:
    nobody = tmp_path / "nobody.yaml"
    nobody.write_text(f"identity: {{workload_api: unix://{tmp_path}/none.sock}}\n")
    wait = ("--wait", "200ms")
    assert uproxy("check", str(good), str(nobody), "nowhere.yaml", *wait).returncode == 4
    assert uproxy("check", "nowhere.yaml", str(nobody), str(good), *wait).returncode == 2


def test_check_without_a_file_is_wrong_usage() -> None:
    done = uproxy("check")
    assert done.returncode == 2
    assert done.stderr == "uproxy: error: which file? uproxy check FILE, or - for standard input\n"


def test_check_says_what_is_good_and_warns_that_nobody_gets_in(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config", str(good)]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("good: 1 inbound, 0 outbound, 0 destinations, 0 rules\n")
    assert "warning: authorization: there is no allow rule in force" in shown.err
    with good.open("a") as file:
        file.write("authorization: [{action: allow, from: any}]\n")
    assert main(["check", "--config", str(good)]) == 0
    assert capsys.readouterr().out.endswith("0 destinations, 1 rule\n")


def test_check_waits_for_an_identity_when_asked(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config", str(good), "--wait", "5s"]) == 0
    assert "identity spiffe://example.org/ns/db/sa/orders until" in capsys.readouterr().out


def test_check_with_an_agent_warns_of_trust_domains_without_a_bundle(tmp_path: Path) -> None:
    domains = {"example.org": {"entries": [entry("spiffe://example.org/orders")]}}
    with DevAuthority(tmp_path, domains) as authority:
        path = tmp_path / "uproxy.yaml"
        path.write_text(
            f"identity: {{workload_api: '{authority.endpoints['example.org']}'}}\n"
            "inbound: [{listen: 127.0.0.1:1, transport: mtls, to: 127.0.0.1:2}]\n"
            "authorization:\n"
            "  - {action: allow, from: {trust_domains: [example.org, partner.test]}}\n"
        )
        assert "partner.test" not in uproxy("check", str(path)).stderr
        done = uproxy("check", str(path), "--wait", "20s")
    assert done.returncode == 0, done.stderr
    assert f"{path}:4:57: warning: authorization[0].from.trust_domains[1]" in done.stderr
    assert "there is no bundle for the trust domain partner.test" in done.stderr
    assert "domain example.org" not in done.stderr


def test_check_warns_of_a_variable_with_single_underscores(good: Path) -> None:
    done = uproxy("check", str(good), UPROXY_TIMEOUTS_IDLE="2h", UPROXY_PORT="tcp://10.0.0.1:1")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "UPROXY" in line] == [
        "uproxy: warning: UPROXY_TIMEOUTS_IDLE: sets nothing: two underscores stand between the "
        "parts of a name, as in UPROXY__TIMEOUTS__IDLE"
    ]


def test_check_without_an_agent_exits_4(tmp_path: Path) -> None:
    path = tmp_path / "uproxy.yaml"
    path.write_text(f"identity: {{workload_api: unix://{tmp_path}/none.sock}}\n")
    done = uproxy("check", "--config", str(path), "--wait", "200ms")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("uproxy: error: no identity within 0.2 s: ")


def test_a_wait_that_is_no_duration_is_wrong_usage(good: Path) -> None:
    done = uproxy("check", "--config", str(good), "--wait", "soon")
    assert done.returncode == 2
    assert "--wait 'soon'" in done.stderr


def test_check_refuses_a_key_that_does_not_match(good: Path) -> None:
    other = Authority("example.org").issue("/ns/db/sa/orders")
    (good.parent / "svid.key").write_bytes(other.key_pem)
    done = uproxy("check", "--config", str(good))
    assert done.returncode == 2
    assert "svid.key" in done.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("inbound[0].owner", "inbound: [{listen: unix:///tmp/none.sock, transport: mtls, "
         "to: 127.0.0.1:3, owner: nobodyatall}]\n"),
        ("outbound[0].owner", "outbound: [{listen: unix:///tmp/none.sock, to: db, "
         "owner: nobodyatall}]\ndestinations: {db: {addresses: [127.0.0.1:3], "
         "transport: plaintext}}\n"),
        ("admin.owner", "admin: {metrics: unix:///tmp/none.sock, owner: nobodyatall}\n"),
    ],
)  # fmt: skip
def test_check_refuses_an_owner_that_nobody_is(good: Path, path: str, text: str) -> None:
    identity = good.read_text().partition("inbound:")[0]
    good.write_text(identity + text)
    done = uproxy("check", "--config", str(good))
    assert done.returncode == 2
    assert path in done.stderr


def test_check_warns_of_a_bundle_that_does_not_know_us(good: Path) -> None:
    (good.parent / "bundle.pem").write_bytes(Authority("example.org").pem)
    done = uproxy("check", "--config", str(good))
    assert done.returncode == 0
    assert ":1:19: warning: identity.files: " in done.stderr


def test_check_refuses_an_expired_svid(good: Path) -> None:
    authority = Authority("example.org")
    issued = authority.issue(
        "/ns/db/sa/orders", not_before=PAST, not_after=PAST + timedelta(hours=1)
    )
    (good.parent / "svid.pem").write_bytes(issued.pem)
    (good.parent / "svid.key").write_bytes(issued.key_pem)
    (good.parent / "bundle.pem").write_bytes(authority.pem)
    done = uproxy("check", "--config", str(good))
    assert done.returncode == 2
    assert "expired" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = uproxy("check", "--log-level", "debug", "--config", str(tmp_path / "none"))
    assert "Traceback" in done.stderr
    assert done.stderr.endswith(": no such file or directory\n")
    assert done.returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_can_not_be_written_gets_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uproxy", "version"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "uproxy: error: no space left on device: is standard output gone or full?\n"
    )


def test_the_schema_is_json() -> None:
    assert json.loads(uproxy("schema").stdout)["type"] == "object"


def test_the_version_names_the_openssl_that_is_in_use() -> None:
    shown = uproxy("version").stdout
    assert shown.startswith(f"uproxy {__version__}\n")
    assert "OpenSSL 4." in shown
    assert "inside cryptography" in shown


def test_the_demo_says_which_extra_it_needs() -> None:
    program = (
        "import sys; sys.modules['OpenSSL'] = None; from uproxy import cli; sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "demo", "--once"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("uproxy: error: ")
    assert "pip install 'uproxy[demo]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_openssl_configuration_in_the_environment_is_ignored(tmp_path: Path) -> None:
    hostile = tmp_path / "openssl.cnf"
    hostile.write_text("openssl_conf = broken\n[broken\n")
    assert uproxy("version", OPENSSL_CONF=str(hostile)).returncode == 0
