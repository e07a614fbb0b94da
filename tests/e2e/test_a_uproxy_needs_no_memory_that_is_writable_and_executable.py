"""Hardened services may not write code and run it (`MemoryDenyWriteExecute=yes`, as in the unit
under `deploy/`): the compiled engine works there, the Python engine says why it can't."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.pair import Pair
from tests.helpers.privileges import without_new_code


@pytest.fixture(scope="module", autouse=True)
def forbidden() -> None:
    """A program that makes such memory fails there; or else the tests would prove nothing."""
    libffi = "import cffi; cffi.FFI().callback('int(int)', lambda number: number)"
    ran = subprocess.run(
        [*without_new_code(), "python3", "-c", "print('may run')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        pytest.skip(f"needs Linux 6.3: {ran.stderr}")
    argv = [*without_new_code(), without_new_code()[0], "-c", libffi]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "MemoryError" in ran.stderr


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with background(traffic.echo) as port:
        pair = Pair(tmp_path, {"app": port})
        for uproxy in (pair.frontend, pair.orders):
            uproxy.argv = [*without_new_code(), *uproxy.argv]
        yield pair


async def test_bytes_pass_both_ways_and_an_application_protocol_is_agreed(pair: Pair) -> None:
    pair.orders_config["inbound"][0]["alpn"] = ["h2", "postgresql"]
    pair.frontend_config["destinations"]["app"]["alpn"] = ["postgresql"]
    with pair:
        await traffic.exchange(pair.port("app"), 1 << 20)


def test_the_python_engine_says_what_forbids_it(pair: Pair) -> None:
    pair.orders.write_config({**pair.orders_config, "engine": "python"})
    with pytest.raises(AssertionError, match="ended with 1"), pair.orders:
        pair.orders.wait_until_ready()
    assert "MemoryDenyWriteExecute=yes): use engine: native, or allow it" in pair.orders.output
    assert "Traceback" not in pair.orders.output
