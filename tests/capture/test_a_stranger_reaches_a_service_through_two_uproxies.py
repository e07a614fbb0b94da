"""curl resolves a name, both families race, and it reaches a service it knows nothing else of.

The one of its kind that is in every run; test_strangers_notice_nothing.py has the others.
"""

from __future__ import annotations

import json
import sys

import pytest

from tests.helpers import capture_web
from tests.helpers.capture_mesh import NAME, Mesh, at
from tests.helpers.capture_world import HOST, HOST6, World

PORT = 8080


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_stranger_reaches_a_service_through_two_uproxies(either: World, engine: str) -> None:
    with (
        Mesh(either, [PORT], engine=engine) as mesh,
        mesh.serve(sys.executable, capture_web.__file__, str(PORT)),
    ):
        for options, addresses in (((), {HOST, HOST6}), (("-4",), {HOST}), (("-6",), {HOST6})):
            said = mesh.call("curl", "-sS", "-m", "20", *options, f"http://{NAME}:{PORT}/")
            [address, port] = json.loads(said)["reached"]
            assert (address in addresses, port) == (True, PORT)
            assert at(address, PORT) in mesh.seen()
