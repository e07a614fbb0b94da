"""Identity from files: read as one set, watched, and replaced as one."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

import uproxy.identity.files
from uproxy.config.settings import FilesIdentity
from uproxy.identity.credentials import Credentials
from uproxy.identity.files import FilesSource
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.tokens import TokenAuthority
from uproxy.lab.waiting import eventually

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
CA = Authority("example.org", now=NOW)
FILES_LOG = "uproxy.identity.files"
HOUR = timedelta(hours=1)


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Folder:
    """The four files of an identity, as a renewer writes them."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self.settings = FilesIdentity(
            svid=str(path / "svid.pem"),
            key=str(path / "svid.key"),
            bundles={"example.org": str(path / "bundle.pem")},
        )
        self.bundle(CA.pem)

    def issue(self, issued: Issued) -> Issued:
        (self.path / "svid.pem").write_bytes(issued.pem)
        self.key(issued)
        return issued

    def key(self, issued: Issued) -> None:
        (self.path / "svid.key").touch(0o600)
        (self.path / "svid.key").write_bytes(issued.key_pem)

    def bundle(self, data: bytes) -> None:
        (self.path / "bundle.pem").write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def source(folder: Folder, clock: Clock | None = None) -> FilesSource:
    return FilesSource(folder.settings, clock=clock or Clock())


async def test_good_files_are_in_force_when_start_returns(folder: Folder) -> None:
    issued = folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    assert files.current.svid is not None
    assert files.current.svid.chain == issued.chain
    assert dict(files.current.bundles) == {"example.org": CA.bundle}
    assert files.status["last_error"] is None
    assert files.status["warnings"] == []
    await files.stop()


async def test_without_files_there_is_a_reason_until_they_come(folder: Folder) -> None:
    files = source(folder)
    await files.start()
    assert files.current.svid is None
    assert "no such file" in files.current.reason
    issued = folder.issue(CA.issue())
    await eventually(lambda: files.current.svid, "the files to be read")
    assert files.current.svid is not None
    assert files.current.svid.chain == issued.chain
    await files.stop()


async def test_a_renewed_svid_is_noticed_and_the_generation_stays(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    renewed = folder.issue(CA.issue(not_after=NOW + 2 * HOUR))
    await eventually(lambda: files.status["rotations"] == 1, "the rotation")
    assert files.current.svid is not None
    assert files.current.svid.chain == renewed.chain
    assert files.current.generation == 1
    await files.stop()


async def test_a_swapped_folder_link_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes replaces a ConfigMap or Secret: the files are links through `..data`."""
    first, second = (Folder(tmp_path / name).issue(CA.issue()) for name in ("one", "two"))
    (tmp_path / "..data").symlink_to("one")
    settings = FilesIdentity(
        svid=str(tmp_path / "svid.pem"),
        key=str(tmp_path / "svid.key"),
        bundles={"example.org": str(tmp_path / "bundle.pem")},
    )
    for name in ("svid.pem", "svid.key", "bundle.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = FilesSource(settings, clock=Clock())
    await files.start()
    assert files.current.svid is not None
    assert files.current.svid.chain == first.chain
    (tmp_path / "..new").symlink_to("two")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    await eventually(lambda: files.status["rotations"] == 1, "the swap to be seen")
    assert files.current.svid.chain == second.chain
    await files.stop()


async def test_a_torn_set_keeps_the_last_good_one_and_heals(folder: Folder) -> None:
    first = folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    second = CA.issue()
    (folder.path / "svid.pem").write_bytes(second.pem)
    files.reload()
    assert files.current.svid is not None
    assert files.current.svid.chain == first.chain
    assert "not the one of the certificate" in str(files.status["last_error"])
    folder.key(second)
    await eventually(lambda: files.status["last_error"] is None, "the set to fit together")
    assert files.current.svid.chain == second.chain
    assert files.status["discarded_sets"] == 1
    await files.stop()


async def test_a_bundle_that_is_being_written_keeps_the_last_good_set(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    before = files.current
    folder.bundle(CA.pem[:100])
    files.reload()
    assert files.current is before
    assert "no certificate of example.org is trusted" in str(files.status["last_error"])
    folder.bundle(CA.pem)
    await eventually(lambda: files.status["last_error"] is None, "the bundle to be whole")
    assert files.current is before
    await files.stop()


async def test_a_bundle_that_stays_bad_ends_the_trust_in_its_domain_only(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    before = files.current
    renewed = folder.issue(CA.issue())
    folder.bundle(b"damaged")
    await eventually(lambda: files.status["distrusted"], "the trust to end")
    svid, bundle = files.current.svid, files.current.bundles["example.org"]
    assert svid is not None
    assert svid.chain == renewed.chain
    assert (bundle.roots, files.current.generation) == ((), before.generation + 1)
    assert bundle.problem in cast("list[str]", files.status["distrusted"])
    folder.bundle(CA.pem)
    await eventually(lambda: not files.status["distrusted"], "the trust to come back")
    assert files.current.bundles["example.org"] == CA.bundle
    await files.stop()


async def test_what_keeps_our_svid_from_being_renewed_keeps_no_trust_from_being_withdrawn(
    folder: Folder,
) -> None:
    first = folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    (folder.path / "svid.pem").write_bytes(b"damaged")
    folder.bundle(b'{"keys": []}')
    files.reload()
    assert files.current.bundles["example.org"] == CA.bundle
    await eventually(lambda: not files.current.bundles["example.org"].roots, "the trust to end")
    assert files.current.svid is not None
    assert files.current.svid.chain == first.chain
    assert "not a certificate chain" in str(files.status["last_error"])
    folder.bundle(CA.pem)
    await eventually(lambda: files.current.bundles["example.org"].roots, "the trust to come back")
    await files.stop()


async def test_a_missing_bundle_is_waited_for_beside_those_that_are_there(folder: Folder) -> None:
    folder.issue(CA.issue())
    (folder.path / "bundle.pem").unlink()
    files = source(folder)
    await files.start()
    assert files.current.svid is not None
    assert "no such file" in files.current.bundles["example.org"].problem
    folder.bundle(CA.pem)
    await eventually(lambda: files.current.bundles["example.org"].roots, "the bundle")
    await files.stop()


async def test_equal_content_in_new_files_is_no_change(folder: Folder) -> None:
    issued = folder.issue(CA.issue())
    files = source(folder)
    changes: list[Credentials] = []
    files.subscribe(lambda _, after: changes.append(after))
    await files.start()
    folder.issue(issued)
    folder.bundle(CA.pem + b"\n# the same root\n" + CA.pem)
    files.reload()
    assert files.status["reads"] == 2
    assert len(changes) == 1
    await files.stop()


async def test_new_roots_and_crls_move_the_generation(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    folder.bundle(CA.pem + Authority("example.org", now=NOW).pem)
    files.reload()
    assert files.current.generation == 2
    assert len(files.current.bundles["example.org"].roots) == 2
    await files.stop()


async def test_expiry_is_noticed_while_the_files_stay_as_they_are(folder: Folder) -> None:
    clock = Clock()
    folder.issue(CA.issue(not_after=NOW + timedelta(seconds=1)))
    files = source(folder, clock)
    await files.start()
    assert files.current.svid is not None
    clock.now = NOW + timedelta(seconds=2)
    await eventually(lambda: files.current.svid is None, "the SVID to expire")
    assert "expired at" in files.current.reason
    folder.issue(CA.issue())
    await eventually(lambda: files.current.svid, "the renewed SVID")
    assert files.current.reason == ""
    await files.stop()


async def test_expired_files_are_a_reason_at_start(folder: Folder) -> None:
    folder.issue(CA.issue(not_before=NOW - 2 * HOUR, not_after=NOW - HOUR))
    files = source(folder)
    await files.start()
    assert files.current.svid is None
    assert "expired at 2026-08-01T11:00:00+00:00" in files.current.reason
    await files.stop()


async def test_files_that_a_wrong_clock_called_expired_are_read_again(folder: Folder) -> None:
    clock = Clock()
    clock.now = NOW + 24 * HOUR
    folder.issue(CA.issue())
    files = source(folder, clock)
    await files.start()
    assert files.current.svid is None
    clock.now = NOW
    await eventually(lambda: files.current.svid, "the clock to be believed")
    await files.stop()


async def test_an_expired_replacement_does_not_push_out_a_valid_svid(folder: Folder) -> None:
    first = folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    folder.issue(CA.issue(not_before=NOW - 2 * HOUR, not_after=NOW - HOUR))
    files.reload()
    assert files.current.svid is not None
    assert files.current.svid.chain == first.chain
    assert "expired" in str(files.status["last_error"])
    await files.stop()


async def test_other_files_can_be_named_while_running(folder: Folder, tmp_path: Path) -> None:
    folder.issue(CA.issue())
    other = Folder(tmp_path / "other")
    files = source(folder)
    await files.start()
    before = files.current
    files.reload(other.settings)
    assert files.current is before
    assert str(files.status["last_error"]).startswith(f"{tmp_path}/other/")
    issued = other.issue(CA.issue())
    await eventually(lambda: files.status["rotations"] == 1, "the other files")
    assert files.current.svid is not None
    assert files.current.svid.chain == issued.chain
    await files.stop()


async def test_keys_of_tokens_come_and_go_as_they_are_wanted(folder: Folder) -> None:
    signer = TokenAuthority("example.org")
    keys = [key for each in (CA, signer) for key in json.loads(each.jwks)["keys"]]
    folder.bundle(json.dumps({"keys": keys}).encode())
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    assert files.current.jwt_bundles == {}
    before = files.current
    files.want_jwt_bundles(True)
    assert files.current.jwt_bundles == {"example.org": signer.bundle}
    assert files.current.generation == before.generation
    assert (files.status["jwt_trust_domains"], files.status["jwt_error"]) == (["example.org"], None)
    folder.bundle(CA.jwks)
    files.reload()
    assert "no bundle is a JWKS with keys" in str(files.status["jwt_error"])
    files.want_jwt_bundles(False)
    assert files.current.jwt_bundles == {}
    assert "jwt_error" not in files.status
    await files.stop()


async def test_keys_of_tokens_are_withdrawn_though_our_own_files_do_not_fit(
    folder: Folder,
) -> None:
    one, other = TokenAuthority("example.org", kid="1"), TokenAuthority("example.org", kid="2")
    roots = json.loads(CA.jwks)["keys"]
    folder.bundle(json.dumps({"keys": roots + json.loads(one.jwks)["keys"]}).encode())
    folder.issue(CA.issue())
    files = source(folder)
    files.want_jwt_bundles(True)
    await files.start()
    assert files.current.jwt_bundles == {"example.org": one.bundle}
    folder.key(CA.issue())
    folder.bundle(json.dumps({"keys": roots + json.loads(other.jwks)["keys"]}).encode())
    await eventually(
        lambda: files.current.jwt_bundles == {"example.org": other.bundle}, "the other key"
    )
    assert files.current.svid is not None
    await files.stop()


async def test_an_error_and_a_warning_are_logged_once(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    issued = folder.issue(CA.issue())
    (folder.path / "svid.key").chmod(0o644)
    files = source(folder)
    await files.start()
    files.reload()
    folder.key(CA.issue())
    files.reload()
    files.reload()
    folder.issue(issued)
    files.reload()
    await files.stop()
    warning, error = (record.message for record in caplog.records if record.name == FILES_LOG)
    assert "chmod 0600" in warning
    assert "not the one of the certificate" in error


async def test_files_that_give_no_answer_keep_nobody_waiting_and_are_read_when_they_do(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a mount whose server is away, where stat blocks until it is back."""
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    answer, looks = threading.Event(), []
    look = uproxy.identity.files._fingerprint

    def hang(paths: tuple[str, ...]) -> object:
        looks.append(paths)
        answer.wait(60)
        return look(paths)

    monkeypatch.setattr(uproxy.identity.files, "_fingerprint", hang)
    renewed = folder.issue(CA.issue())
    await eventually(lambda: looks, "a thread to look at the files")
    for _ in range(2):
        await files.reload_if_they_answer(0.01)
    assert len(looks) == 1
    assert "give no answer in 0.01 s: is their file system there?" in caplog.messages[-1]
    assert files.status["rotations"] == 0
    answer.set()
    await eventually(lambda: files.status["rotations"] == 1, "the renewed SVID")
    assert files.current.svid is not None
    assert files.current.svid.chain == renewed.chain
    await files.stop()


async def test_files_that_answer_are_read_by_a_reload(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    folder.issue(CA.issue())
    await files.reload_if_they_answer()
    assert files.status["rotations"] == 1
    await files.stop()


async def test_after_stop_nothing_is_read_any_more(folder: Folder) -> None:
    folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    await files.stop()
    assert files._watching is None
    assert files._expiry is not None
    assert files._expiry.cancelled()


async def test_the_status_never_holds_a_key(folder: Folder) -> None:
    issued = folder.issue(CA.issue())
    files = source(folder)
    await files.start()
    shown = repr(files.status) + repr(files.current)
    assert "PRIVATE" not in shown
    assert issued.key_pem.split(b"\n")[1].decode()[:16] not in shown
    await files.stop()
