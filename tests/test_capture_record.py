"""What is written down of a capture can be read again, whole, by another process."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from uproxy.capture import record
from uproxy.capture.places import Namespace
from uproxy.capture.policy import parse_policy
from uproxy.capture.record import Mode, Record, Wanted
from uproxy.capture.routing import PolicyRoute
from uproxy.errors import NotPermittedError, UproxyError

WANTED = Wanted(
    name="app",
    mode=Mode.EBPF,
    cgroup=Path("/sys/fs/cgroup/app"),
    cgroup_id=11,
    namespace=Namespace(Path("/run/netns/pod"), 12, 1 << 40),
    proxy_cgroup=Path("/sys/fs/cgroup/proxy"),
    proxy_cgroup_id=13,
    policy=parse_policy(["10.0.0.0/8,443"], ["10.1.0.0/16", "2001:db8::/32"], ["8080"], ["22"]),
    outbound_port=15001,
    inbound_port=15006,
    fail_open=False,
    route=PolicyRoute(0x7570, 7570, 75),
    bpffs=Path("/sys/fs/bpf"),
)
MADE = Record(WANTED, {"ipv4/fwmark_reflect": "0"}, "abc")


@pytest.mark.parametrize(
    "made",
    [
        MADE,
        Record(replace(WANTED, mode=Mode.NFT)),
        Record(replace(WANTED, short_circuit=())),
        Record(replace(WANTED, short_circuit=("fionread", "blocking"))),
    ],
)
def test_a_record_is_read_as_it_was_written(made: Record, tmp_path: Path) -> None:
    record.save(tmp_path, made)
    assert record.load(tmp_path, "app") == made
    assert record.names(tmp_path) == ["app"]
    record.forget(tmp_path, "app")
    assert (record.load(tmp_path, "app"), record.names(tmp_path)) == (None, [])


def test_what_is_forgotten_already_may_be_forgotten_again(tmp_path: Path) -> None:
    record.forget(tmp_path, "app")


def test_another_version_with_the_same_format_finds_and_reads_the_file() -> None:
    assert str(record.FOLDER) == "/run/uproxy/capture"
    wanted = replace(WANTED, policy=parse_policy(["10.0.0.0/8", "8080,443"], inbound=["all"]))
    text = Record(wanted).to_json()
    assert text.startswith('{\n "version": 1,\n "wanted": {\n  "name": "app",\n')  # for people
    assert json.loads(text) == {
        "version": 1,
        "wanted": {
            "name": "app",
            "mode": "ebpf",
            "cgroup": "/sys/fs/cgroup/app",
            "cgroup_id": 11,
            "namespace": {"path": "/run/netns/pod", "inode": 12, "cookie": 1 << 40},
            "proxy_cgroup": "/sys/fs/cgroup/proxy",
            "proxy_cgroup_id": 13,
            "policy": {
                "included": ["10.0.0.0/8"],
                "excluded": [],
                "included_ports": [443, 8080],
                "excluded_ports": [],
                "inbound": [],
                "inbound_all": True,
                "inbound_excluded": [],
            },
            "outbound_port": 15001,
            "inbound_port": 15006,
            "fail_open": False,
            "route": {"mark": 0x7570, "table": 7570, "priority": 75},
            "bpffs": "/sys/fs/bpf",
            "short_circuit": None,
        },
        "sysctls": {},
        "programs": "",
        "listing": "",
    }
    by_nft = json.loads(Record(replace(WANTED, mode=Mode.NFT)).to_json())
    assert by_nft["wanted"]["mode"] == "nft"


@pytest.mark.parametrize("earlier", [None, MADE])
def test_a_record_that_is_replaced_comes_back_if_what_it_is_for_fails(
    earlier: Record | None, tmp_path: Path
) -> None:
    if earlier is not None:
        record.save(tmp_path, earlier)
    fresh = replace(MADE, programs="def")

    def fail() -> None:
        with record.replaced(tmp_path, fresh):
            assert record.load(tmp_path, "app") == fresh
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert record.load(tmp_path, "app") == earlier
    with record.replaced(tmp_path, fresh):
        pass
    assert record.load(tmp_path, "app") == fresh


def test_another_versions_record_is_left_to_it(tmp_path: Path) -> None:
    document = {**json.loads(MADE.to_json()), "version": record.VERSION + 1}
    (tmp_path / "app.json").write_text(json.dumps(document))
    with pytest.raises(UproxyError, match=r"not written by this version of uproxy \(version 2\)"):
        record.load(tmp_path, "app")


def test_who_names_no_capture_is_told_which_there_are(tmp_path: Path) -> None:
    assert str(record.unknown(tmp_path, "b")) == "no capture 'b' is attached; there are: none"
    record.save(tmp_path, MADE)
    record.save(tmp_path, Record(replace(WANTED, name="web")))
    assert str(record.unknown(tmp_path, "b")).endswith("there are: app, web")


def test_captures_are_listed_by_their_names(tmp_path: Path) -> None:
    there = [f"app-{number}" for number in (5, 3, 8, 1, 7, 2, 6, 4)]
    for name in there:
        record.save(tmp_path, Record(replace(WANTED, name=name)))
    assert record.names(tmp_path) == sorted(there)


def test_connections_are_brought_to_the_inbound_port_where_something_inbound_is_captured() -> None:
    assert WANTED.proxy_ports == {15001, 15006}
    assert replace(WANTED, policy=parse_policy()).proxy_ports == {15001}


def test_the_first_lock_makes_the_folder_which_everybody_may_read(tmp_path: Path) -> None:
    folder = tmp_path / "uproxy" / "capture"
    with record.locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_a_record_that_was_written_without_a_umask_is_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "uproxy" / "capture"
    before = os.umask(0)
    try:
        with record.locked(folder):
            record.save(folder, MADE)
    finally:
        os.umask(before)
    assert record.load(folder, "app") == MADE
    assert (folder / "app.json").stat().st_mode & 0o777 == 0o644


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_lock_is_let_go_however_the_command_ends(tmp_path: Path) -> None:
    before = descriptors()
    for failure in (KeyError, None):
        with contextlib.suppress(KeyError), record.locked(tmp_path):
            if failure is not None:
                raise failure
    assert descriptors() == before


def test_where_others_may_write_there_is_no_lock_and_no_record(tmp_path: Path) -> None:
    (tmp_path / "app.json").write_text(MADE.to_json())
    tmp_path.chmod(0o777)
    with pytest.raises(UproxyError, match="has mode 0777"), record.locked(tmp_path):
        pass
    with pytest.raises(UproxyError, match="has mode 0777"):
        record.load(tmp_path, "app")


def test_a_folder_that_cannot_be_made_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "uproxy").write_text("")
    with (
        pytest.raises(UproxyError, match="uproxy/capture: file exists"),
        record.locked(tmp_path / "uproxy" / "capture"),
    ):
        pass


def test_who_may_not_write_there_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(record, "make_folder", refuse)
    with (
        pytest.raises(NotPermittedError, match="/run/uproxy/capture: must be root"),
        record.locked(record.FOLDER),
    ):
        pass


def test_a_record_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "app.json").mkdir()
    with pytest.raises(UproxyError, match=r"app\.json: is a directory"):
        record.load(tmp_path, "app")


def test_a_record_from_before_there_were_shortcuts_is_read(tmp_path: Path) -> None:
    document = json.loads(MADE.to_json())
    del document["wanted"]["short_circuit"]
    (tmp_path / "app.json").write_text(json.dumps(document))
    assert record.load(tmp_path, "app") == MADE


def test_a_draft_that_was_left_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "app.draft").write_text("{")
    assert record.names(tmp_path) == []
    record.save(tmp_path, MADE)
    assert [path.name for path in tmp_path.iterdir()] == ["app.json"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        json.dumps({"version": 99}),
        "[]",
        MADE.to_json().replace('"ebpf"', '"iptables"'),
    ],
)
def test_what_another_version_wrote_is_not_guessed_at(text: str, tmp_path: Path) -> None:
    (tmp_path / "app.json").write_text(text)
    with pytest.raises(UproxyError, match="not written by this version of uproxy"):
        record.load(tmp_path, "app")


def test_a_name_is_the_cgroups_and_differs_where_the_path_does() -> None:
    first, second = (
        record.default_name(Path(f"/sys/fs/cgroup/{each}/app.service")) for each in "ab"
    )
    assert first != second
    assert first.startswith("app-service-")
    # a bpffs takes no dots in names
    assert "." not in first
    assert record.default_name(Path("/sys/fs/cgroup/a/app.service")) == first
    pod = record.default_name(Path("/sys/fs/cgroup/kubepods.slice") / ("cri-containerd-" * 8))
    assert re.fullmatch(r"(cri-containerd-){2}cri-contai-[0-9a-f]{8}", pod)  # fits into a status


def test_only_a_proxy_inside_the_captured_cgroup_needs_an_exemption() -> None:
    assert WANTED.exempt_cgroup_id == 0
    inside = replace(WANTED, proxy_cgroup=WANTED.cgroup / "proxy")
    assert inside.exempt_cgroup_id == 13


def test_only_one_command_at_a_time_changes_captures(tmp_path: Path) -> None:
    import fcntl
    import os

    with record.locked(tmp_path):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
