"""The act with the L7 proxy says nothing that isn't so: another policy or world ends it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from uproxy.demo import envoy, l7_act
from uproxy.demo.apps import EchoApplications
from uproxy.demo.envoy import EnvoyProcess
from uproxy.demo.l7_act import L7Act
from uproxy.demo.l7_world import L7World
from uproxy.demo.screen import Screen
from uproxy.demo.world import DemoWorld
from uproxy.errors import UproxyError

POLICY = Path(envoy.__file__).with_name("l7_policy.yaml").read_text()
PERMISSIVE = POLICY.replace("string_match: {exact: GET}}}]\n                  principals",
                            "present_match: true}}]\n                  principals")  # fmt: skip


class ClingingWorld(L7World):
    """The Envoy stays in frontend's path."""

    def frontend_config(self, via: EnvoyProcess | None = None) -> dict[str, Any]:
        self._via = via or getattr(self, "_via", None)
        return super().frontend_config(self._via)


class HastyWorld(L7World):
    """The Envoy that is replaced has no successor."""

    def newsletter_config(
        self, envoys: Sequence[EnvoyProcess], draining: Sequence[EnvoyProcess] = ()
    ) -> dict[str, Any]:
        return super().newsletter_config(*([], draining) if draining else (envoys, draining))


class GullibleWorld(L7World):
    """Newsletter may reach the shop straight, too."""

    def orders_config(self) -> dict[str, Any]:
        config = super().orders_config()
        config["authorization"][-1]["from"]["via"].append("direct")
        return config


async def tell(screen: Screen) -> bool:
    async with DemoWorld() as world:
        await world.start_authority()
        apps = await world.enter(EchoApplications())
        await world.start_uproxies(apps.servers)
        return await L7Act(world, screen, apps.servers).tell()


async def test_the_envoy_enters_the_path_and_leaves_it() -> None:
    stream = io.StringIO()
    assert await tell(Screen(stream, {}))
    told = stream.getvalue()
    for line in (
        "straight        6 GETs are answered 200 503 200 503 200 503\n",
        "adds the header `x-lua: hello, spiffe://example.org/ns/web/sa/frontend`\n",
        "6 GETs are answered 200 200 200 200 200 200; shop saw ",
        "spiffe://example.org/ns/web/sa/frontend called, via l7\n",
        "frontend        GET 200, POST 200\n",
        "newsletter      GET 200, POST 403\n",
        "ok refused: newsletter straight to orders, with a forged header\n",
        "ok certificates are renewed once more, the Envoy's too",
        "none of these among them\n",
        "ok the Envoy is replaced under load",
        "ok 300 requests over each path",
    ):
        assert line in told


async def test_without_an_envoy_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise UproxyError("there is none")

    monkeypatch.setattr(l7_act, "find_envoy", find)
    stream = io.StringIO()
    assert not await tell(Screen(stream, {}))
    assert stream.getvalue() == "     left out: there is none\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (POLICY.replace('replace("x-lua"', 'replace("x-other"'), "no header of Lua"),
        (POLICY.replace("num_retries: 3", "num_retries: 0"), r"through the Envoy: \[.*503"),
        (PERMISSIVE, r"newsletter was answered \[200, 200\]"),
    ],
    ids=["no script", "no retries", "no rule"],
)
async def test_an_envoy_with_another_policy_ends_it(
    policy: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert policy != POLICY
    monkeypatch.setattr(envoy, "_POLICY", tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_text(policy)
    with pytest.raises(UproxyError, match=why):
        await tell(Screen(io.StringIO(), {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "why"),
    [
        (ClingingWorld, "a header of Lua is still there"),
        (HastyWorld, "requests failed"),
        (GullibleWorld, "a forged header was answered"),
    ],
)
async def test_a_world_that_is_wrong_somewhere_ends_it(
    world: type[L7World], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(l7_act, "L7World", world)
    with pytest.raises(UproxyError, match=why):
        await tell(Screen(io.StringIO(), {}))
