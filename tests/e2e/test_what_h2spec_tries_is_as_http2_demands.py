"""h2spec's tests of HTTP/2 servers against a running uProxy's door for tunnels.

Its requests become CONNECTs on the way (`tests/peers/h2spec`), to an application that says
something first.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers.background import background
from tests.helpers.pair import ENGINES
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn
from uproxy.lab.software.golang import peer

EXCEPTIONS = {
    # RFC 9113 §5.3.2 has given priorities up
    "Sends HEADERS frame that depend on itself",
    "Sends PRIORITY frame that depend on itself",
    # a GET is answered with 400, whatever its path
    'Sends a HEADERS frame with empty ":path" pseudo-header field',
    # which means nothing in a CONNECT (RFC 9110 §9.3.6)
    'Sends a HEADERS frame with the "content-length" header field which does not equal the '
    "DATA frame payload length",
    'Sends a HEADERS frame with the "content-length" header field which does not equal the '
    "sum of the multiple DATA frames payload length",
}


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"a greeting for whoever comes")
    await reader.read()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_h2spec_finds_nothing_but_what_a_connect_does_not_have(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    report, caller = folder / "report.xml", file_world.theirs(WEB)
    with (
        background(greet) as app,
        TunnelsIn(folder, file_world.ours(ORDERS), app, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        subprocess.run(
            [peer("h2spec"), str(uproxy.port), caller.svid, caller.key, f"127.0.0.1:{app}", report],
            check=True, capture_output=True, timeout=100,
        )  # fmt: skip
        assert uproxy.status("/readyz") == 200
        assert "Traceback" not in uproxy.output
        assert "a defect" not in uproxy.output
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314  made by a test
    assert len(cases) == 146
    assert not [case for case in cases if case.find("skipped") is not None]
    failed = {case.get("classname") for case in cases if case.find("error") is not None}
    assert failed == EXCEPTIONS
