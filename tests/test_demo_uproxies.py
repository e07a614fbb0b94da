"""How the demonstration runs a uProxy, and what it asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from tests.helpers import traffic
from uproxy.demo.processes import until_async
from uproxy.demo.uproxies import UproxyProcess
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port


def config(target: int) -> dict[str, object]:
    """A uProxy that needs no identity."""
    return {
        "name": "plain",
        "identity": {"workload_api": "unix:///nowhere/api.sock"},
        "outbound": [{"listen": f"127.0.0.1:{free_port()}", "to": "app"}],
        "destinations": {"app": {"addresses": [f"127.0.0.1:{target}"], "transport": "plaintext"}},
        "timeouts": {"drain_delay": "0s", "drain": "0s"},
    }


@pytest.fixture
async def app() -> AsyncIterator[int]:
    async with traffic.serving(traffic.echo) as port:
        yield port


async def test_it_answers_at_its_admin_listener_while_it_runs(tmp_path: Path, app: int) -> None:
    async with UproxyProcess(config(app), tmp_path) as uproxy:
        await uproxy.wait_until_ready()
        assert await uproxy.shows_status()
        assert await uproxy.own_certificate() == {}
    assert uproxy.exit_code == 0
    assert not await uproxy.shows_status()


async def test_its_access_log_is_read_row_by_row(tmp_path: Path, app: int) -> None:
    document = config(app)
    async with UproxyProcess(document, tmp_path) as uproxy:
        await uproxy.wait_until_ready()
        port = int(document["outbound"][0]["listen"].rpartition(":")[2])  # type: ignore[index]  # plain data
        for _ in range(2):
            await traffic.exchange(port, 1000)
        await uproxy.until(lambda: len(uproxy.accesses) == 2, "two rows")
        assert {(row["outcome"], row["bytes_sent"]) for row in uproxy.accesses} == {
            ("closed", 1000)
        }


async def test_what_is_open_is_what_its_admin_listener_says(tmp_path: Path, app: int) -> None:
    document = config(app)
    port = int(document["outbound"][0]["listen"].rpartition(":")[2])  # type: ignore[index]  # plain data
    async with UproxyProcess(document, tmp_path) as uproxy:
        await uproxy.wait_until_ready()
        _, writer = await asyncio.open_connection("127.0.0.1", port)

        async def look() -> bool:
            return (await uproxy.connections()).get("total") == 1

        await until_async(look, "it shows the connection", uproxy)
        writer.close()
        assert await uproxy.handshakes() == 0
    assert (await uproxy.connections(), await uproxy.handshakes()) == ({}, 0)


async def test_a_changed_file_is_in_force_when_the_change_returns(tmp_path: Path, app: int) -> None:
    document, port = config(app), free_port()
    other = {"listen": f"127.0.0.1:{port}", "to": "app"}
    async with UproxyProcess(document, tmp_path) as uproxy:
        await uproxy.wait_until_ready()
        await uproxy.change({**document, "outbound": [other]})
        await traffic.exchange(port, 1000)


async def test_a_file_that_is_refused_is_told_with_the_reason(tmp_path: Path, app: int) -> None:
    async with UproxyProcess(config(app), tmp_path) as uproxy:
        await uproxy.wait_until_ready()
        with pytest.raises(UproxyError, match=r"plain's uProxy refused its file: .*steam"):
            await uproxy.change({**config(app), "engine": "steam"})


async def test_one_that_cannot_start_tells_why(tmp_path: Path, app: int) -> None:
    document = {**config(app), "engine": "steam"}
    with pytest.raises(UproxyError, match=r"plain's uProxy ended \(exit code 2\).*steam"):
        async with UproxyProcess(document, tmp_path) as uproxy:
            await uproxy.wait_until_ready()


async def test_it_takes_no_settings_from_our_environment(
    tmp_path: Path, app: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPROXY__ENGINE", "steam")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "uproxy.py").write_text("raise SystemExit('another uproxy')")
    async with UproxyProcess(config(app), tmp_path) as uproxy:
        await uproxy.wait_until_ready()


def test_its_file_is_its_configuration(tmp_path: Path) -> None:
    document = config(1)
    uproxy = UproxyProcess(document, tmp_path)
    written = yaml.safe_load(uproxy.config_file.read_text())
    admin = written.pop("admin")
    assert written == document
    assert uproxy.status_page == f"http://{admin['listen']}/"
