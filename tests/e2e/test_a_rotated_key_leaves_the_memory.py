"""A private key that was rotated away isn't in memory, though a connection lives on that began
under it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.pair import identity_of, inbound
from tests.helpers.streams import Stream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority, Issued
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until
from uproxy.model import TcpAddress


def copies(pid: int, issued: Issued) -> int:
    """Of the key's secret number in a process's memory, in either byte order."""
    number = issued.key.private_numbers().private_value  # type: ignore[union-attr]  # EC
    found = 0
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if (place := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)) is None:
                continue
            begin, end = (int(each, 16) for each in place.groups())
            memory.seek(begin)
            try:
                held = memory.read(end - begin)
            except OSError:  # a mapping that nobody can read
                continue
            found += sum(held.count(number.to_bytes(32, order)) for order in ("little", "big"))
    return found


@pytest.mark.privileged
@pytest.mark.parametrize("engine", ["native", "python"])
async def test_a_rotated_key_leaves_the_memory_though_an_old_connection_is_open(
    engine: str, tmp_path: Path
) -> None:
    ca = Authority("example.org")
    old, new, peer = (ca.issue(f"/{name}") for name in ("orders", "orders", "peer"))
    files = write_identity(tmp_path / "identity", old, ca.pem)
    address = TcpAddress("127.0.0.1", free_port())
    async with listening() as app:
        assert isinstance(app.address, TcpAddress)
        config = {
            "name": "orders",
            "engine": engine,
            "identity": identity_of(files),
            "inbound": [inbound("api", address.port, app.address.port)],
            "authorization": [{"name": "any", "action": "allow", "from": "any"}],
        }
        with Uproxy(config, tmp_path / "orders") as uproxy:
            uproxy.wait_until_ready()
            first = TlsStream(await Stream.connect(address), peer)
            await first.handshake()
            await first.send(b"x")
            there = await app.accept()
            assert copies(uproxy.pid, old)
            for path, text in ((files.svid, new.pem), (files.key, new.key_pem)):
                fresh = path.with_suffix(".new")
                fresh.touch(mode=0o600)
                fresh.write_bytes(text)
                fresh.rename(path)
            wait_until(lambda: copies(uproxy.pid, new), "the new key")
            second = TlsStream(await Stream.connect(address), peer)
            await second.handshake()
            wait_until(lambda: not copies(uproxy.pid, old), "the old key to be gone")
            await first.send(b"still here")
            assert await there.receive_exactly(11) == b"xstill here"
            first.stream.close()
            second.stream.close()
