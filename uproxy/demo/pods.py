"""Two pods for the act with capture: network namespaces joined by a link, and cgroups.

    frontend (10.75.0.2) ── link ── orders (10.75.0.3)

A process of its own (`python -m uproxy.demo.pods NAME`) makes them and takes everything down when
the demonstration has ended, even if that was killed: what runs in the cgroups, what captures for
them, and the cgroups.  The namespaces end with the last program in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uproxy.capture import control, record
from uproxy.capture.listeners import listening
from uproxy.capture.pins import check_bpffs
from uproxy.capture.places import cgroup_root
from uproxy.demo.processes import Program, ProgramCommand
from uproxy.demo.uproxies import environment
from uproxy.errors import NotPermittedError, UproxyError, in_words

FRONTEND_ADDRESS, ORDERS_ADDRESS = "10.75.0.2", "10.75.0.3"
CLIENT, PROXY, ORDERS = "client", "uproxy", "orders"
"""The cgroups: of frontend's client, of its uProxy, and of what belongs to orders."""

_PACKAGES = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
"""The Debian package of each program."""
_ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
_LOOK_EVERY_S = 0.01
_ALWAYS_IN_BPFFS = {"maps.debug", "progs.debug"}


def check() -> None:
    """Make sure that pods can be made here.

    Raises:
        NotPermittedError: we may not.
        UproxyError: a program isn't installed.
    """
    missing = sorted({package for name, package in _PACKAGES.items() if not shutil.which(name)})
    if missing:
        raise UproxyError(f"demo --capture needs {' '.join(missing)}: install them")
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:  # noqa: S607  where the distribution has it
        raise NotPermittedError(
            "demo --capture makes network namespaces and cgroups, and captures there: must be "
            "root, with CAP_SYS_ADMIN; or leave out --capture"
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """A network namespace."""

    pid: int
    """A process that is in it."""

    @property
    def namespace(self) -> Path:
        """A way to it."""
        return Path(f"/proc/{self.pid}/ns/net")

    def listens(self, port: int) -> bool:
        """Whether anybody listens at a TCP port."""
        return any(port == each for each, _ in listening(str(self.pid)))

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return the command that runs another one in it."""
        return ["nsenter", f"--net={self.namespace}", "--", *words]


class Pods(Program):
    """Both pods, which exist inside the `async with`."""

    def __init__(self, folder: Path) -> None:
        self.name = f"uproxy-demo-{os.getpid()}"
        """Of the folder of cgroups, and of the capture."""
        argv = [sys.executable, "-P", "-m", "uproxy.demo.pods", self.name]
        # the end of its input tells it that we are gone
        super().__init__(
            ProgramCommand("what keeps the pods", argv, env=environment(), has_input=True), folder
        )

    frontend: Pod
    orders: Pod

    async def wait_until_ready(self) -> None:
        """Wait until both are there.

        Raises:
            UproxyError: they can't be made.
        """
        line = await self.until(lambda: "".join(self.lines[:1]), "the pods are there")
        if not line.startswith("ready "):
            raise UproxyError(line)
        frontend, orders = line.split()[1:]
        self.frontend, self.orders = Pod(int(frontend)), Pod(int(orders))

    def cgroup(self, name: str) -> Path:
        """Return the cgroup of that name."""
        return _folder(self.name) / name

    def within(self, cgroup: str, *words: str | Path) -> list[str | Path]:
        """Return the command that runs another one in a cgroup."""
        return ["sh", "-c", _ENTER, self.cgroup(cgroup), *words]


def main(name: str) -> None:
    """Make the pods, say so, and keep them until SIGTERM or the end of our input."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_bpffs())
            _folder(name).mkdir()
            stack.callback(_remove, name)
            for each in (CLIENT, PROXY, ORDERS):
                (_folder(name) / each).mkdir()
            frontend, orders = (stack.enter_context(_namespace()) for _ in range(2))
            _join(frontend, orders)
            sys.stdout.write(f"ready {frontend.pid} {orders.pid}\n")
            sys.stdout.flush()
            sys.stdin.read()
    except OSError as error:
        sys.exit(f"the pods can't be made: {error.filename or ''}: {in_words(error)}")
    except (UproxyError, subprocess.CalledProcessError) as error:
        sys.exit(f"the pods can't be made: {error}")


def _folder(name: str) -> Path:
    return cgroup_root() / name


@contextlib.contextmanager
def _bpffs() -> Iterator[None]:
    """Keep a bpffs where captures are pinned; systemd has mounted it on most machines."""
    path = control.DEFAULT_BPFFS
    try:
        check_bpffs(path)
    except UproxyError:
        pass  # none is there, which is mended here
    else:
        yield
        return
    subprocess.run(["mount", "-t", "bpf", "bpf", path], check=True)  # noqa: S603, S607  from util-linux
    try:
        yield
    finally:
        # with somebody else's pins it stays: they would go with it
        if {each.name for each in path.iterdir()} <= _ALWAYS_IN_BPFFS:
            subprocess.run(["umount", path], check=True)  # noqa: S603, S607  from util-linux


@contextlib.contextmanager
def _namespace() -> Iterator[Pod]:
    """Keep a new network namespace."""
    argv = ["unshare", "--net", "cat"]  # it ends with its input, and so when we do
    with subprocess.Popen(  # noqa: S603  our own words
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as keeper:
        pod = Pod(keeper.pid)
        ours = Path("/proc/self/ns/net").stat().st_ino
        while pod.namespace.stat().st_ino == ours:
            time.sleep(_LOOK_EVERY_S)
        yield pod


def _join(frontend: Pod, orders: Pod) -> None:
    """Join the pods by a link, with an address at each end."""
    _ip(frontend, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
        "netns", str(orders.pid))  # fmt: skip
    for pod, address in ((frontend, FRONTEND_ADDRESS), (orders, ORDERS_ADDRESS)):
        # no link-local address, which would come some time later and count as a change
        _ip(pod, "link", "set", "eth0", "addrgenmode", "none")
        _ip(pod, "address", "add", f"{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip(pod, "link", "set", interface, "up")


def _ip(pod: Pod, *words: str) -> None:
    subprocess.run(pod.command("ip", *words), check=True)  # noqa: S603  our own words


def _remove(name: str) -> None:
    """End what runs in the cgroups, detach what captures for them, remove them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = _folder(name)
    for each in (CLIENT, PROXY, ORDERS):
        _empty(folder / each)
    # after those who might be about to attach it
    if name in record.names(record.FOLDER):
        control.detach(name)
    for each in (CLIENT, PROXY, ORDERS, "."):
        with contextlib.suppress(FileNotFoundError):
            (folder / each).resolve().rmdir()


def _empty(cgroup: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        while pids := (cgroup / "cgroup.procs").read_text().split():
            for pid in map(int, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1])
