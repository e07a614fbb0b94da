"""A workload that is reached through the shared Envoy only, as a program for a network namespace.

`python -m tests.helpers.capture_l7 ADDRESS FOLDER`: runs the shared Envoy, an application, and the
uProxy before it, at an address of the namespace; prints one line of JSON once all of them are
ready, and ends when its standard input does.  The application itself is on loopback.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from tests.helpers.http_app import HttpApp
from tests.helpers.shared import L7, THROUGH_L7, TRUST
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn
from uproxy.lab.ports import free_port
from uproxy.lab.software.shared_envoy import SharedEnvoy


def main() -> None:
    address, folder = sys.argv[1], Path(sys.argv[2])
    world = FileWorld(folder)
    tunnels = free_port()
    envoy = SharedEnvoy(folder, world.theirs(L7), destinations=tunnels)
    envoy.replace(
        "base.yaml",
        {
            f"address: 127.0.0.1, port_value: {envoy.port}": (
                f"address: {address}, port_value: {envoy.port}"
            )
        },
    )
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(HttpApp("orders").running())
        orders = TunnelsIn(
            folder, world.ours(ORDERS), app.port, engine="native", host=address, port=tunnels,
            inbound_trust=TRUST, authorization=[THROUGH_L7],
        )  # fmt: skip
        stack.enter_context(orders).wait_until_ready()
        stack.enter_context(envoy)
        told = {"app": app.port, "envoy": envoy.port, "caller": world.ours(WEB)}
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
