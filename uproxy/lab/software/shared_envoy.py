"""The shared Envoy of deploy/envoy, as a user runs it, on loopback.

`SharedEnvoy` runs a copy of that folder with its addresses replaced; `use("retries")` puts the
files of its folder capabilities/retries in place of its policy while it runs.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.envoy import EnvoyProcess, binary
from uproxy.lab.waiting import wait_until

SHIPPED = Path(__file__).parents[3] / "deploy" / "envoy"
FAULTS = Path(__file__).with_name("wasm_faults.c")
"""A Wasm module that crashes at a request for /crash, and loops for ever at one for /loop."""
CAPABILITIES = sorted(path.name for path in (SHIPPED / "capabilities").iterdir())
HOST = "127.0.0.1"

_SUBSCRIPTIONS = {
    "clusters.yaml": "cluster_manager.cds",
    "routes.yaml": "http.l7.rds.l7",
    "canary.yaml": "http.l7-canary.rds.l7-canary",
    "tunnels.yaml": "http.tunnels.rds.tunnels",
}
"""The files of policy/, in the order in which they may refer to each other, and the names of
Envoy's counters about each."""


def build_wasm(source: Path, module: Path) -> None:
    """Compile a Wasm module in C, with clang and lld.

    Raises:
        CalledProcessError: the compiler found a mistake.
    """
    subprocess.run([SHIPPED / "wasm" / "build", source, module], check=True)


class SharedEnvoy(EnvoyProcess):
    """Takes tunnels on `port`, answers health checks on `health_port`, and opens streams at the
    port `destinations` of whatever address a CONNECT names.

    The addresses in the files of policies and capabilities are replaced as `names` says.
    `identity` must be spiffe://example.org/ns/mesh/sa/l7: in files that are named as by
    `uproxy.lab.identities.write_identity`, or from an agent with this unix socket (SDS).
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles | str,
        *options: str,
        destinations: int,
        names: Mapping[str, str] | None = None,
        port: int | None = None,
        admin_host: str = HOST,
    ) -> None:
        self.port = free_port() if port is None else port
        self.health_port = free_port()
        self.options = options
        self.destinations = destinations
        self.names = dict(names or {})
        self.home = folder / f"shared-envoy-{self.port}"
        shutil.copytree(SHIPPED, self.home)
        (self.home / "identity").mkdir()
        if isinstance(identity, str):
            options = (*(options or ("--disable-hot-restart",)), *self._ask(identity))
        else:
            for file in (identity.svid, identity.key, identity.bundle):
                shutil.copy(file, self.home / "identity")
        admin_port = free_port()
        self.replace(
            "base.yaml",
            {
                "address: 0.0.0.0, port_value: 15008": f"address: {HOST}, port_value: {self.port}",
                "address: 127.0.0.1, port_value: 9901": (
                    f"address: {admin_host}, port_value: {admin_port}"
                ),
                "address: 0.0.0.0, port_value: 15021": (
                    f"address: {HOST}, port_value: {self.health_port}"
                ),
                "upstream_port_override: 15008": f"upstream_port_override: {destinations}",
            },
        )
        config = self.home / "base.yaml"
        super().__init__(config, admin_port, self.home, *options, admin_host=admin_host)

    def successor(self, epoch: int = 1) -> EnvoyProcess:
        """Return the Envoy that takes over from this one by hot restart, if both have the same
        `--base-id`."""
        return _Successor(self, epoch)

    def _ask(self, agent: str) -> tuple[str, str]:
        """Do with base.yaml what sds.yaml tells to do; return options for the command line."""
        text = (self.home / "sds.yaml").read_text()
        (command,) = [line.lstrip("# ") for line in text.splitlines() if " sed -i" in line]
        subprocess.run(["/bin/sh", "-c", command], cwd=self.home, check=True)
        self.replace("sds.yaml", {"/run/spire/agent/public/api.sock": agent})
        return "--config-yaml", (self.home / "sds.yaml").read_text()

    def build_wasm(self, source: Path) -> None:
        """Compile a module in C into its folder `wasm`, as the function does."""
        build_wasm(source, self.home / "wasm" / source.with_suffix(".wasm").name)

    def replace(self, name: str, changes: Mapping[str, str]) -> None:
        """Replace texts in a file of its folder, each of which must be there."""
        text = (self.home / name).read_text()
        for old, new in changes.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        (self.home / name).write_text(text)

    def use(self, capability: str | None, changes: Mapping[str, str] | None = None) -> None:
        """Put a capability's policy in place, or none, and wait until it holds.

        Texts in its files are replaced as `changes` says.

        Raises:
            AssertionError: Envoy rejects it; the message has its output.
        """
        for name in _SUBSCRIPTIONS:
            own = SHIPPED / "capabilities" / str(capability) / name
            source = own if own.exists() else SHIPPED / "policy" / name
            text = source.read_text()
            for old, new in (changes or {}).items():
                text = text.replace(old, new)
            self.put(name, text)

    def put(self, name: str, text: str) -> None:
        """Replace a file of its policy as a user would, and wait until it holds.

        Raises:
            AssertionError: Envoy rejects it; the message has its output.
        """
        for old, new in self.names.items():
            text = text.replace(old, new)
        target = self.home / "policy" / name
        if target.read_text() == text:
            return
        before = self._updates(name)
        fresh = self.home / f"{name}.new"
        fresh.write_text(text)
        fresh.replace(target)
        wait_until(lambda: self._updates(name) != before, f"Envoy to read {name}")
        after = self._updates(name)
        assert after["update_rejected"] == before["update_rejected"], self.output
        assert after["update_failure"] == before["update_failure"], self.output

    @property
    def accesses(self) -> list[dict[str, Any]]:
        """The lines of its access log, of all hops."""
        lines = (line for line in self.output.split("\n")[:-1] if line.startswith("{"))
        return [json.loads(line) for line in lines]

    def _updates(self, name: str) -> dict[str, int]:
        prefix = _SUBSCRIPTIONS[name]
        found = self.statistics(prefix)
        names = ("update_success", "update_rejected", "update_failure")
        return {each: found[f"{prefix}.{each}"] for each in names}


class _Successor(EnvoyProcess):
    """Takes over from another Envoy."""

    def __init__(self, before: SharedEnvoy, epoch: int) -> None:
        self._epoch = epoch
        options = [*before.options[:-1], str(epoch)]
        config = before.home / "base.yaml"
        super().__init__(
            config, before.admin_port, before.home, *options, admin_host=before.admin_host
        )

    def is_ready(self) -> bool:
        """Whether this one answers at the admin listener, and no longer its predecessor."""
        if not super().is_ready():
            return False
        options = json.loads(self.admin("/server_info"))["command_line_options"]
        return int(options["restart_epoch"]) == self._epoch


class WasmApart(Process):
    """The Envoy for Wasm modules beside a shared Envoy, with the compiled module `module` in it."""

    def __init__(self, beside: SharedEnvoy, module: str) -> None:
        config = beside.home / "wasm-apart.yaml"
        text = (SHIPPED / config.name).read_text()
        config.write_text(text.replace("wasm/caller.wasm", f"wasm/{module}"))
        self._socket = beside.home / "wasm-apart.sock"
        super().__init__(
            [binary(), "-c", config, "--disable-hot-restart", "--concurrency", "1"],
            config.with_suffix(".log"),
        )

    def is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0
