"""PostgreSQL and nginx as the demonstration runs them."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from uproxy.demo.distribution import DistributionApplications, find_programs
from uproxy.demo.processes import ProgramCommand, output_of
from uproxy.demo.screen import Screen
from uproxy.errors import UproxyError
from uproxy.lab.ports import listens
from uproxy.lab.tap import Tap


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: there nobody else may pass, and PostgreSQL isn't root."""
    path = Path(tempfile.mkdtemp(prefix="uproxy-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def apps(folder: Path) -> AsyncIterator[DistributionApplications]:
    async with DistributionApplications(folder, Screen(io.StringIO(), {})) as running:
        yield running
    assert not any(map(listens, running.servers.values())), "a server has survived"


async def test_psql_and_curl_do_what_they_say(apps: DistributionApplications) -> None:
    exchanges = await apps.talk(apps.servers, "a-marker")
    assert [(one.client, one.server) for one in exchanges] == [
        ("psql", "PostgreSQL"),
        ("curl", "nginx"),
    ]
    assert "a page of nginx for a-marker" in exchanges[1].done


async def test_each_call_of_curl_is_a_connection(apps: DistributionApplications) -> None:
    async with Tap(apps.servers["nginx"]) as tap:
        assert await apps.call({"nginx": tap.port}, 3) == "curl"
    assert len(tap.captures) == 3


async def test_another_page_than_nginx_has_is_noticed(apps: DistributionApplications) -> None:
    async with traffic.serving(traffic.echo) as other:
        with pytest.raises(UproxyError):
            await apps.call({"nginx": other}, 1)


async def test_a_session_is_one_backend(apps: DistributionApplications) -> None:
    first, second = [await apps.open_session(apps.servers) for _ in range(2)]
    names = {await first.ask(), await second.ask(), await first.ask()}
    await first.close()
    await second.close()
    assert len(names) == 2
    assert all(name.startswith("PostgreSQL's backend ") for name in names)


async def test_nobody_is_the_superuser_over_tcp(
    apps: DistributionApplications, folder: Path
) -> None:
    port = str(apps.servers["postgres"])
    for user, database in (("postgres", "postgres"), ("web", "postgres"), ("postgres", "web")):
        argv = [find_programs()["psql"], "-X", "-h", "127.0.0.1", "-p", port, "-U", user]
        command = ProgramCommand("psql", [*argv, "-d", database, "-c", "select 1"])
        with pytest.raises(UproxyError, match=r"no pg_hba\.conf entry"):
            await output_of(command, folder)


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_as_root_the_servers_are_somebody_else(
    apps: DistributionApplications, folder: Path
) -> None:
    owners = {(folder / name).stat().st_uid for name in ("postgres", "nginx")}
    assert 0 not in owners
    assert (folder / "postgres").stat().st_mode & 0o777 == 0o700


def test_what_is_not_installed_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == "nginx" else name)
    with pytest.raises(UproxyError, match=r"not installed: nginx; .*without --apps real"):
        find_programs()
