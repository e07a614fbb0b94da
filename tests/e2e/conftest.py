"""Where identities come from in tests with strangers, and the application they reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.background import background
from tests.helpers.pair import ENGINES
from tests.helpers.shared import Shared, shared_envoy
from uproxy.lab.authorities import DevAuthority
from uproxy.lab.mesh import (
    ORDERS,
    UNWANTED,
    WEB,
    AgentWorld,
    FileWorld,
    Identities,
    TunnelsIn,
)

SLOW_VARIANTS = {
    "test_a_shared_envoy_stands_between_two_uproxies": "python",
    "test_a_destination_believes_the_shared_envoy_about_callers": "python",
    "test_callers_prove_themselves_through_the_shared_envoy": "python",
    "test_a_flood_of_bad_certificates_leaves_no_trace": "python",
    "test_who_breaks_http2_in_a_tunnel_is_counted_and_logged_once": "python",
    "test_slow_loris_handshakes_cost_little_and_delay_nobody": "a_crowd_costs",
    "test_the_demo_ends_at_any_moment_and_leaves_nothing_behind": "that_is_killed",
    "test_the_demo_shows_what_it_says_and_ends": "[echo",
}
"""By file, which variants of its tests are tried where there is time only."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        variant = SLOW_VARIANTS.get(item.path.stem)
        if variant is not None and variant in item.name:
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of uProxies with tunnels."""
    return str(request.param)


@pytest.fixture(scope="module")
def door(folder: Path, file_world: FileWorld, echo_app: int, engine: str) -> Iterator[TunnelsIn]:
    """A uProxy with a door for tunnels to that application; some modules have another one."""
    with TunnelsIn(folder, file_world.ours(ORDERS), echo_app, engine=engine) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


@pytest.fixture(scope="session")
def shared_by_all(
    tmp_path_factory: pytest.TempPathFactory, file_world: FileWorld
) -> Iterator[Shared]:
    """The shared Envoy with what is behind it, for all tests that leave it as it was."""
    with shared_envoy(tmp_path_factory.mktemp("shared"), file_world) as found:
        yield found


@pytest.fixture
def shared(shared_by_all: Shared) -> Shared:
    """The same without any policy, in front of applications that answer."""
    shared_by_all.envoy.use(None)
    shared_by_all.first.calm()
    shared_by_all.second.calm()
    return shared_by_all


@pytest.fixture(scope="session")
def frontend(shared_by_all: Shared) -> Iterator[int]:
    """The port at which the frontend reaches orders through the shared Envoy."""
    with shared_by_all.caller(WEB) as caller:
        yield caller.port


@pytest.fixture(scope="session")
def somebody(shared_by_all: Shared) -> Iterator[int]:
    """The port at which another workload does."""
    with shared_by_all.caller(UNWANTED) as caller:
        yield caller.port
