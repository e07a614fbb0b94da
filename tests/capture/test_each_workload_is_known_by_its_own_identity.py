"""Two pods of a host, each captured for a uProxy with an identity and a policy of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.helpers import capture_service
from tests.helpers.capture_mesh import Mesh, at
from tests.helpers.capture_world import HOST, HOST6, SECOND, Neighbor, World, existing
from tests.helpers.pair import FRONTEND
from uproxy.lab.waiting import wait_until

PORT = 7777
CART = "spiffe://example.org/ns/web/sa/cart"


def test_each_workload_is_known_by_its_own_identity(either: World, tmp_path: Path) -> None:
    with (
        Mesh(either, [PORT]) as mesh,
        existing(Neighbor(either, tmp_path)) as neighbor,
        mesh.serve(sys.executable, capture_service.__file__, str(PORT)),
    ):
        neighbor.attach("--exclude", SECOND)
        with mesh.another(neighbor, "/ns/web/sa/cart"):
            for address in (HOST, HOST6):
                assert either.connect(address, PORT)["answer"]["reached"] == [address, PORT]
                mesh.check(at(address, PORT))
                # only the frontend may call
                assert neighbor.connect(address, PORT).get("answer", "") == ""
                wait_until(mesh.news_there, "the other one's call")
                [line] = mesh.news_there(forget=True)
                assert (line["src.identity"], line["outcome"]) == (CART, "denied")
        # what its policy leaves out comes in clear, and gets no farther
        assert neighbor.connect(SECOND, PORT).get("answer", "") == ""
        wait_until(mesh.news_there, "the call in clear")
        [line] = mesh.news_there(forget=True)
        assert line["src.identity"] is None
        assert FRONTEND not in str(line)
