"""Wasm modules compiled from C, good and bad ones, in the shared Envoy and in a process apart."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.helpers.http_app import Client, fetch
from tests.helpers.shared import Shared
from uproxy.lab.mesh import WEB
from uproxy.lab.software.shared_envoy import FAULTS, SHIPPED, WasmApart
from uproxy.lab.waiting import wait_until

CALLER = SHIPPED / "wasm" / "caller.c"
WITH_FAULTS = {"caller.wasm": "wasm_faults.wasm"}


@pytest.fixture(scope="module")
def built(shared_by_all: Shared) -> None:
    shared_by_all.envoy.build_wasm(CALLER)
    shared_by_all.envoy.build_wasm(FAULTS)


@pytest.fixture
def modules(built: None, shared: Shared) -> Shared:
    return shared


@pytest.fixture(scope="module")
def elsewhere(shared_by_all: Shared) -> Iterator[int]:
    """The port at which the frontend reaches the second application, whose route has no module."""
    with shared_by_all.caller(WEB, shared_by_all.addresses[1]) as caller:
        yield caller.port


def test_a_module_sees_requests_and_answers(modules: Shared, frontend: int) -> None:
    modules.envoy.use("wasm")
    answer = fetch(frontend, x_service_account="admin")
    assert answer.seen["x-service-account"] == "frontend"
    assert answer.headers["x-wasm"] == "seen"


def test_a_module_that_crashes_costs_its_own_requests_and_is_loaded_again(
    modules: Shared, frontend: int, elsewhere: int
) -> None:
    modules.envoy.use("wasm", WITH_FAULTS)
    assert fetch(frontend).seen["x-service-account"] == "nobody"
    for _ in range(3):
        assert fetch(frontend, "/crash").status == 503
        assert fetch(elsewhere).status == 200
    wait_until(lambda: fetch(frontend).status == 200, "the module to be loaded again")


def test_a_module_that_loops_ends_the_envoy_it_is_in_and_no_other(
    modules: Shared, frontend: int
) -> None:
    envoy = modules.another_envoy()
    envoy.replace("base.yaml", {"kill_timeout: 5s": "kill_timeout: 1s"})
    envoy.build_wasm(FAULTS)
    with envoy, modules.caller(envoys=[envoy]) as caller, Client(frontend) as other:
        envoy.use("wasm", WITH_FAULTS)
        with Client(caller.port) as client:
            client.ask("/loop")
            while envoy.running:
                assert other.fetch().status == 200
        assert envoy.wait() == -signal.SIGABRT


def test_a_module_apart_decides_and_speaks_to_the_application(
    modules: Shared, frontend: int
) -> None:
    modules.envoy.use("wasm-apart")
    with WasmApart(modules.envoy, "caller.wasm"):
        answer = fetch(frontend, x_service_account="admin")
        assert answer.seen["x-service-account"] == "frontend"
    assert fetch(frontend).status == 403


def test_a_module_apart_that_crashes_or_loops_costs_its_own_requests_alone(
    modules: Shared, frontend: int, elsewhere: int
) -> None:
    modules.envoy.use("wasm-apart")
    with WasmApart(modules.envoy, "wasm_faults.wasm") as apart, Client(elsewhere) as other:
        assert fetch(frontend).status == 200
        assert fetch(frontend, "/crash").status == 403
        assert other.fetch().status == 200
        wait_until(lambda: fetch(frontend).status == 200, "the module to be loaded again")
        assert fetch(frontend, "/loop").status == 403
        while apart.running:
            assert other.fetch().status == 200
        assert apart.wait() == -signal.SIGABRT
        assert fetch(frontend).status == 403
        apart.start()
        assert fetch(frontend).status == 200
        assert other.fetch().status == 200
