"""Where identities come from in tests with strangers, and the application they reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from uproxy.lab.authorities import DevAuthority
from uproxy.lab.mesh import AgentWorld, FileWorld, Identities


@pytest.fixture(scope="session")
def echo_app() -> Iterator[int]:
    """The port of an application that sends everything back."""
    with background(traffic.echo) as port:
        yield port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what lives as long as a module's tests."""
    return tmp_path_factory.mktemp("module")


@pytest.fixture(scope="session")
def file_world(tmp_path_factory: pytest.TempPathFactory) -> FileWorld:
    """Identities from files."""
    return FileWorld(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def agent_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentWorld]:
    """Identities from a Workload API."""
    folder = tmp_path_factory.mktemp("agent")
    with DevAuthority(folder, AgentWorld.domains()) as authority:
        yield AgentWorld(folder, authority)


@pytest.fixture(scope="module", params=["files", "agent"])
def world(request: pytest.FixtureRequest) -> Identities:
    """Both, one after the other."""
    given: Identities = request.getfixturevalue(
        {"files": "file_world", "agent": "agent_world"}[request.param]
    )
    return given
