"""nginx behind one uProxy, curl behind another: large and many transfers, in bounded memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.apps import Nginx, download, sha256_of, upload, write_file
from tests.helpers.memory import Growth
from tests.helpers.pair import MTLS, TUNNELS, Pair, Way

MIB = 1 << 20
GIB = 1 << 30
BOUND = 64 * MIB
"""Private memory that a uProxy may grow by.  Seen: 3 MiB with fifty transfers, nothing worth
telling with one; a uProxy that kept what it relays would need hundreds."""

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may measure uProxy's memory"),
]


def sizes(large: int, small: int) -> list[Any]:
    """`large` over mTLS, and over tunnels too if there is time; `small` over tunnels."""
    return [
        pytest.param(MTLS, large),
        *(pytest.param(way, small) for way in TUNNELS),
        *(pytest.param(way, large, marks=pytest.mark.slow) for way in TUNNELS),
    ]


# of the module's scope, so that each pair is started once
BY_WAY: dict[str, Any] = {"indirect": ["way"], "ids": str, "scope": "module"}


@dataclass(frozen=True)
class World:
    nginx: Nginx
    pair: Pair

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.pair.port('files')}/{name}"

    @contextmanager
    def bounded_memory(self) -> Iterator[None]:
        pids = self.pair.frontend.pid, self.pair.orders.pid
        with Growth(pids) as growth:
            yield
        assert max(growth.peak.values()) < BOUND, growth.peak


@pytest.fixture(scope="module", params=[MTLS, *TUNNELS], ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, way: Way) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("nginx")
    with Nginx(folder) as nginx, Pair(folder, {"files": nginx.port}, way) as pair:
        yield World(nginx, pair)


@contextmanager
def served(world: World, size: int) -> Iterator[tuple[str, str]]:
    """A file's name and SHA-256; it doesn't stay on the disk."""
    path = world.nginx.www / uuid.uuid4().hex
    try:
        yield path.name, write_file(path, size)
    finally:
        path.unlink()


@pytest.mark.parametrize(("way", "size"), sizes(GIB, 64 * MIB), **BY_WAY)
def test_a_large_file_comes_whole(world: World, size: int) -> None:
    with served(world, size) as (name, digest), world.bounded_memory():
        assert download(world.url(name)) == (size, digest)


@pytest.mark.parametrize(("way", "size"), sizes(300 * MIB + 1, 20 * MIB + 1), **BY_WAY)
def test_a_large_upload_arrives_whole(world: World, tmp_path: Path, size: int) -> None:
    digest = write_file(tmp_path / "upload", size)
    with world.bounded_memory():
        upload(tmp_path / "upload", world.url("uploaded"))
    arrived = world.nginx.www / "uploaded"
    assert (arrived.stat().st_size, sha256_of(arrived)) == (size, digest)
    arrived.unlink()
    (tmp_path / "upload").unlink()


@pytest.mark.parametrize(("way", "size"), sizes(8 * MIB + 7, MIB + 7), **BY_WAY)
def test_fifty_transfers_at_once_are_all_whole(world: World, size: int) -> None:
    with (
        served(world, size) as (name, digest),
        world.bounded_memory(),
        ThreadPoolExecutor(50) as pool,
    ):
        done = list(pool.map(lambda _: download(world.url(name)), range(50)))
    assert done == [(size, digest)] * 50
