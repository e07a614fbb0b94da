"""The docs' screenshot can be taken again."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.pictures import WIDTH, picture


@pytest.mark.slow
async def test_a_page_with_every_kind_of_trouble_is_photographed_whole(tmp_path: Path) -> None:
    taken = await picture(tmp_path, seconds=0)
    assert taken.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", taken[16:24])
    assert (width, height > 1500) == (WIDTH, True)
