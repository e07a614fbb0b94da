"""`uproxy capture …`, killed before its Nth change of anything outside the process.

`python capture_killed.py N capture attach …`; SIGKILL before change N, otherwise the command's own
exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from uproxy import cli
from uproxy.capture import bpf, netlink, nft, pins, record, sysctls


def main() -> int:
    remaining = int(sys.argv[1])

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **options)

        return call

    for place, name in (
        (record, "save"), (record, "forget"), (sysctls, "write"), (netlink.Netlink, "change"),
        (pins.Pins, "create"), (pins.Pins, "remove"), (pins.Pins, "clear"), (bpf, "pin"),
        (bpf, "update"), (bpf, "create_link"), (bpf, "update_link"),
        (nft, "_nft"),
    ):  # fmt: skip
        setattr(place, name, dying(getattr(place, name)))
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
