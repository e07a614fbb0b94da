"""The authority as a whole: its folder, what it refuses to change, what it leaves behind."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from uproxy.authority import Definition, DevelopmentAuthority, DomainDefinition, EntryDefinition
from uproxy.errors import UproxyError

DOMAIN = DomainDefinition("example.org", (EntryDefinition("spiffe://example.org/a", uid=0),))
DEFINITION = Definition({"example.org": DOMAIN})


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="authority-") as made:
        yield Path(made)


@pytest.fixture
def _elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def path_of(authority: DevelopmentAuthority) -> Path:
    return Path(authority.endpoints["example.org"].removeprefix("unix://"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_by_default_the_sockets_are_in_the_users_runtime_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    async with DevelopmentAuthority(DEFINITION) as authority:
        assert path_of(authority) == folder / "uproxy-authority" / "example.org.sock"

    assert os.listdir(folder) == []


@pytest.mark.usefixtures("_elsewhere")
async def test_without_one_they_are_in_a_folder_everybody_may_enter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    async with DevelopmentAuthority(DEFINITION) as authority:
        parent = path_of(authority).parent
        assert parent.parent == folder
        assert mode(parent) == 0o755

    assert os.listdir(folder) == []


async def test_a_folder_that_was_there_stays(folder: Path) -> None:
    kept, made = folder / "kept", folder / "made"
    kept.mkdir()
    for sockets in (kept, made):
        async with DevelopmentAuthority(
            Definition({"example.org": DOMAIN}, str(sockets))
        ) as authority:
            assert path_of(authority).parent == sockets

    assert os.listdir(folder) == ["kept"]


async def test_a_socket_may_have_a_path_of_its_own(folder: Path) -> None:
    own = DomainDefinition("example.org", socket=str(folder / "own.sock"))
    async with DevelopmentAuthority(Definition({"example.org": own}, str(folder))) as authority:
        assert path_of(authority) == folder / "own.sock"


async def test_a_path_too_long_for_a_socket_names_the_way_out(folder: Path) -> None:
    with pytest.raises(UproxyError, match="set `sockets` to a shorter folder"):
        await DevelopmentAuthority(
            Definition({"example.org": DOMAIN}, str(folder / ("x" * 100)))
        ).__aenter__()

    assert os.listdir(folder) == []


async def test_a_folder_that_can_not_be_made_is_named() -> None:
    with pytest.raises(UproxyError, match=r"the folder /proc/nowhere/here can't be made"):
        await DevelopmentAuthority(
            Definition({"example.org": DOMAIN}, "/proc/nowhere/here")
        ).__aenter__()


async def test_what_only_a_restart_can_change_is_refused(folder: Path) -> None:
    definition = Definition({"example.org": DOMAIN}, str(folder))
    moved = Definition({"example.org": DOMAIN}, str(folder / "elsewhere"))
    more = Definition({"example.org": DOMAIN, "b.test": DomainDefinition("b.test")}, str(folder))
    async with DevelopmentAuthority(definition) as authority:
        for changed in (moved, more):
            with pytest.raises(UproxyError, match="restart it"):
                authority.apply(changed)


async def test_nothing_but_sockets_is_ever_in_the_folder(folder: Path) -> None:
    async with DevelopmentAuthority(Definition({"example.org": DOMAIN}, str(folder))) as authority:
        authority.rotate_ca()
        authority.renew()

        assert os.listdir(folder) == ["example.org.sock"]
        assert path_of(authority).is_socket()
