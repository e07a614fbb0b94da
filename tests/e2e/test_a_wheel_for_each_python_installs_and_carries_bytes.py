"""`make wheels`, and each wheel under the Python it is for: installed, started, asked for bytes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.pair import Pair
from tests.helpers.versions import pythons

pytestmark = [pytest.mark.slow, pytest.mark.privileged, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
OLDEST_GLIBC = (2, 31)
"""Debian 11's."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels, by the version of Python."""
    folder = tmp_path_factory.mktemp("wheels")
    # the mirror of a machine that only tests may be old
    environ = {**os.environ, "UPROXY_OLD_MIRROR": "1"}
    built = subprocess.run(
        [".ci/wheels", folder], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    found = {re.findall(r"-cp3(\d+)-", path.name)[0]: path for path in folder.glob("*.whl")}
    return {f"3.{minor}": path for minor, path in found.items()}


def test_each_is_for_systems_as_old_as_debian_11(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == pythons()
    for path in wheels.values():
        glibc = re.search(r"manylinux_(\d+)_(\d+)_x86_64", path.name)
        assert glibc, path.name
        assert (int(glibc[1]), int(glibc[2])) <= OLDEST_GLIBC


@pytest.fixture
def installed(
    request: pytest.FixtureRequest, wheels: dict[str, Path], tmp_path: Path
) -> Iterator[tuple[list[str], Path]]:
    """What starts that Python with uProxy installed, and the root directory that it sees."""
    version: str = request.param
    here = subprocess.run(
        [".ci/python", version], cwd=ROOT, capture_output=True, text=True, check=False
    )
    root = Path("/") if here.returncode == 0 else ROOT / f".cache/root-python{version}"
    there = root / str(tmp_path / "packages")[1:]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target",
         there, "--python-version", version, "--only-binary=:all:", "-c", "constraints.txt",
         wheels[version]], cwd=ROOT, check=True,
    )  # fmt: skip
    python = here.stdout.strip() or f"python{version}"
    chroot = [] if root == Path("/") else ["chroot", str(root)]
    yield [*chroot, "env", f"PYTHONPATH={tmp_path}/packages", python], root
    if root != Path("/"):
        shutil.rmtree(root / str(tmp_path)[1:])


@pytest.mark.parametrize("installed", pythons(), indirect=True)
async def test_it_carries_an_applications_bytes(
    installed: tuple[list[str], Path], tmp_path: Path
) -> None:
    python, root = installed
    async with traffic.serving(traffic.echo) as application:
        pair = Pair(tmp_path / "pair", {"echo": application})
        pair.orders.argv[:1] = python
        pair.frontend.argv[:1] = python
        if root != Path("/"):
            shutil.copytree(tmp_path / "pair", root / str(tmp_path / "pair")[1:])
        with pair:
            reader, writer = await asyncio.open_connection("127.0.0.1", pair.port("echo"))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
