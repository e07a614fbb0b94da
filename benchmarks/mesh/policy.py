"""What is done to the shared Envoys while they run: other routes, a script that loops, a Wasm
module with faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from benchmarks.mesh import envoys
from uproxy.lab.processes import Process
from uproxy.lab.software.shared_envoy import FAULTS, SHIPPED, SharedEnvoy, WasmApart

MODULE = FAULTS.with_suffix(".wasm").name
"""The file of the Wasm module with faults."""
SCRIPT_THAT_LOOPS = "function envoy_on_request(handle)\n  while true do end\nend\n"


def put(shared: Sequence[SharedEnvoy], text: str, name: str = "routes.yaml") -> None:
    """Replace a file of their policy, and wait until it holds."""
    for each in shared:
        each.put(name, text)


def spoil(shared: Sequence[SharedEnvoy]) -> None:
    """Replace their routes by a file with a mistake."""
    for each in shared:
        envoys.move_into_place(each.home / "policy" / "routes.yaml", envoys.NO_YAML)


def with_script(routes: str) -> str:
    """Have the script that loops see the requests to the first service."""
    first = "    routes:\n    - name: s0\n"
    assert first in routes
    source = "".join(f"              {line}\n" for line in SCRIPT_THAT_LOOPS.splitlines())
    return routes.replace(
        first,
        f"""\
    typed_per_filter_config:
      envoy.filters.http.lua:
        "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute
        source_code:
          inline_string: |
{source}{first}""",
    )


def with_module(routes: str) -> str:
    """Send the requests to the first service to the cluster whose filter is the module."""
    return routes.replace("cluster: destination", "cluster: orders", 1)


def with_question(routes: str) -> str:
    """Have a process apart asked about each request to the first service."""
    text = (SHIPPED / "capabilities" / "wasm-apart" / "routes.yaml").read_text()
    question = text[text.index("      typed_per_filter_config:") : text.index("  - name: any")]
    return routes.replace("      match:", f"{question}      match:", 1)


@contextlib.contextmanager
def module_inside(shared: Sequence[SharedEnvoy], routes: str) -> Iterator[Sequence[Process]]:
    """Load the module into the shared Envoys while a block runs."""
    for each in shared:
        each.build_wasm(FAULTS)
    with _clusters(shared, "wasm"):
        put(shared, with_module(routes))
        yield shared
        put(shared, routes)


@contextlib.contextmanager
def module_apart(shared: Sequence[SharedEnvoy], routes: str) -> Iterator[Sequence[Process]]:
    """Run a process with the module beside each shared Envoy while a block runs."""
    with contextlib.ExitStack() as stack:
        apart = []
        for each in shared:
            each.build_wasm(FAULTS)
            apart.append(stack.enter_context(WasmApart(each, MODULE)))
        stack.enter_context(_clusters(shared, "wasm-apart"))
        put(shared, with_question(routes))
        yield apart
        put(shared, routes)


@contextlib.contextmanager
def _clusters(shared: Sequence[SharedEnvoy], capability: str) -> Iterator[None]:
    """Have the clusters of a capability while a block runs, with our module."""
    clusters = (SHIPPED / "capabilities" / capability / "clusters.yaml").read_text()
    put(shared, clusters.replace("caller.wasm", MODULE), "clusters.yaml")
    yield
    put(shared, (SHIPPED / "policy" / "clusters.yaml").read_text(), "clusters.yaml")
