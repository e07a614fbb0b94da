"""What the command `uproxy capture` does: attach, detach, look.

It finds what the user names, chooses the mode, and takes the lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uproxy.capture import contents, ebpf, following, nft, orphans, programs, record
from uproxy.capture.condition import Condition, examine
from uproxy.capture.orphans import Orphan
from uproxy.capture.pins import Pins, check_bpffs
from uproxy.capture.places import (
    Cgroup,
    Namespace,
    cgroup_root,
    find_cgroup,
    find_namespace,
    inside,
    is_initial,
)
from uproxy.capture.policy import Policy
from uproxy.capture.record import Mode, Record, Wanted, default_name
from uproxy.capture.routing import PolicyRoute
from uproxy.errors import NotPermittedError, UproxyError, UsageError

AUTO: Final = "auto"
"""The value of --mode with which uProxy chooses between eBPF and nft."""
DEFAULT_MARK: Final = 0x7570
DEFAULT_TABLE: Final = 7570
PRIORITY: Final = 75
"""The priority of our first ip rule: it comes before the rules that container networks make for
their source addresses."""
DEFAULT_BPFFS: Final = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says."""

    cgroup: str
    netns: str
    policy: Policy
    proxy_cgroup: str | None = None
    name: str | None = None
    mode: str = AUTO
    outbound_port: int = 15001
    inbound_port: int = 15006
    fail_open: bool = False
    mark: int = DEFAULT_MARK
    table: int = DEFAULT_TABLE
    bpffs: Path = DEFAULT_BPFFS
    short_circuit: tuple[str, ...] | None = None
    """The kernel's flaws that are accepted with it; None: it isn't wanted."""

    @property
    def needs_ebpf(self) -> bool:
        """Whether something is asked for that nft can't do."""
        return self.fail_open or self.short_circuit is not None


@dataclass(frozen=True, slots=True)
class Attached:
    """What `attach` has done."""

    name: str
    mode: Mode
    why: str
    """Why this mode; empty: the user chose it."""
    fallbacks: tuple[str, ...]
    """Programs of which this kernel can only run the variant for older ones."""
    reasons: tuple[str, ...]
    """Why it doesn't do yet what it was attached for."""


def attach(request: Request, folder: Path = record.FOLDER) -> Attached:
    """Attach a capture, or bring one up to date.

    Raises:
        UsageError: something that the user named doesn't exist.
        NotPermittedError: a privilege is missing.
        UproxyError: it can't be done here; nothing was changed.
    """
    with record.locked(folder):
        name = _name(request)
        earlier = record.load(folder, name) or _lost(request.bpffs, name)
        mode, why = _choose(request, earlier)
        wanted = _wanted(request, name, mode)
        if earlier is not None and earlier.wanted.mode != mode:
            raise UproxyError(
                f"capture {name} is attached with --mode {earlier.wanted.mode}: detach it first"
            )
        if earlier is None and mode == Mode.EBPF:
            _refuse_table(wanted)
        fallbacks: tuple[str, ...] = ()
        if mode == Mode.NFT:
            nft.attach(folder, wanted)
        else:
            fallbacks = ebpf.attach(folder, wanted)
        made = record.load(folder, name)
        return Attached(name, mode, why, fallbacks, examine(made).reasons if made else ())


def _lost(bpffs: Path, name: str) -> Record | None:
    """Return the record that was kept with pins of that name."""
    pins = Pins(bpffs, name)
    return contents.read_record(pins) if pins.exist() else None


def _refuse_table(wanted: Wanted) -> None:
    """Refuse to capture by eBPF what a table captures whose record is lost."""
    with inside(wanted.namespace):
        if wanted.name in nft.captures():
            raise UproxyError(
                f"capture {wanted.name} is attached with --mode nft, and its record is lost: "
                "detach it first"
            )


def _choose(request: Request, earlier: Record | None) -> tuple[Mode, str]:
    """Return the mode, and why; the reason is empty if the user named the mode."""
    if request.mode != AUTO:
        return Mode(request.mode), ""
    if earlier is not None:
        return earlier.wanted.mode, "as before"
    namespace = find_namespace(request.netns)
    by_nft = _wanted(request, _name(request), Mode.NFT)
    if (
        is_initial(namespace)
        and not request.needs_ebpf
        and _refusal(lambda: nft.check(by_nft)) is None
    ):
        return Mode.NFT, "eBPF would change routes and settings of the whole machine"
    check_bpffs(request.bpffs)
    refusal = _refusal(programs.check)
    if refusal is None:
        return Mode.EBPF, "this kernel can do it"
    if request.needs_ebpf:
        raise refusal
    other = _refusal(lambda: nft.check(by_nft))
    if other is None:
        return Mode.NFT, str(refusal)
    if isinstance(refusal, NotPermittedError):
        raise refusal
    raise UproxyError(f"neither eBPF nor nft can be used here: {refusal}; {other}")


def _refusal(check: Callable[[], None]) -> UproxyError | None:
    try:
        check()
    except UproxyError as error:
        return error
    return None


def detach(
    name: str,
    drain_s: float = 0.0,
    folder: Path = record.FOLDER,
    bpffs: Path = DEFAULT_BPFFS,
) -> None:
    """Undo a capture; captured connections have `drain_s` seconds to end, and are reset then.

    Raises:
        UsageError: there is none of that name.
    """
    with record.locked(folder):
        made = record.load(folder, name)
        if made is None:
            for lost in _orphans(name, folder, bpffs):
                orphans.detach(folder, lost, drain_s)
        elif made.wanted.mode == Mode.NFT:
            nft.detach(folder, made, drain_s)
        else:
            ebpf.detach(folder, made, drain_s)


def _orphans(name: str, folder: Path, bpffs: Path) -> list[Orphan]:
    found = [each for each in orphans.find(folder, bpffs) if each.name == name]
    if not found:
        raise record.unknown(folder, name)
    return found


def look(
    name: str | None = None, folder: Path = record.FOLDER, bpffs: Path = DEFAULT_BPFFS
) -> list[Condition | Orphan]:
    """Return how a capture is, or how all of them are; also of those whose record is lost.

    Raises:
        UsageError: there is none of that name.
        NotPermittedError: we may not look.
    """
    if name is None:
        records = (record.load(folder, each) for each in record.names(folder))
        there = [examine(each) for each in records if each is not None]
        return [*there, *orphans.find(folder, bpffs)]
    made = record.load(folder, name)
    return [*_orphans(name, folder, bpffs)] if made is None else [examine(made)]


def follow(name: str, folder: Path = record.FOLDER) -> None:
    """Keep an eBPF capture's list of own addresses up to date until it is detached.

    Raises:
        UsageError: there is none of that name, or it needs nobody who follows.
        UproxyError: its record is lost.
    """
    if record.load(folder, name) is None and _orphans(name, folder, DEFAULT_BPFFS):
        raise UproxyError(f"capture {name}: {orphans.REASON}")
    following.follow(folder, name)


def name_of(cgroup: str) -> str:
    """Return the name that the capture of a cgroup has unless it was given another; the cgroup
    needn't exist any more."""
    return default_name(Path(cgroup).resolve())


def _name(request: Request) -> str:
    if request.name is None:
        return default_name(find_cgroup("--cgroup", request.cgroup).path)
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{record.LONGEST_NAME}}}", request.name):
        raise UsageError(
            f"--name {request.name!r}: 1 to {record.LONGEST_NAME} letters, digits, - and _"
        )
    return request.name


def _wanted(request: Request, name: str, mode: Mode) -> Wanted:
    cgroup = find_cgroup("--cgroup", request.cgroup)
    namespace = find_namespace(request.netns)
    proxy = _proxy(request, cgroup, namespace)
    if request.outbound_port == request.inbound_port:
        raise UsageError("--outbound-port and --inbound-port must differ")
    if mode == Mode.NFT and request.fail_open:
        raise UsageError("--fail-open needs --mode ebpf: nft doesn't know whether the proxy lives")
    if mode == Mode.NFT and request.short_circuit is not None:
        raise UsageError("--short-circuit needs --mode ebpf")
    return Wanted(
        name=name,
        mode=mode,
        cgroup=cgroup.path,
        cgroup_id=cgroup.id,
        namespace=namespace,
        proxy_cgroup=proxy.path,
        proxy_cgroup_id=proxy.id,
        policy=request.policy,
        outbound_port=request.outbound_port,
        inbound_port=request.inbound_port,
        fail_open=request.fail_open,
        route=PolicyRoute(request.mark, request.table, PRIORITY),
        bpffs=request.bpffs,
        short_circuit=request.short_circuit,
    )


def _proxy(request: Request, cgroup: Cgroup, namespace: Namespace) -> Cgroup:
    """Return the cgroup whose listeners may get connections.

    By default the workload's parent, which in a pod has its containers, and under systemd all
    services: there any of them could take the place of a proxy that is down.
    """
    if request.proxy_cgroup is None:
        if cgroup.path == cgroup_root():
            raise UsageError(
                "--cgroup is the root of all cgroups: name the proxy's, --proxy-cgroup"
            )
        if is_initial(namespace):
            raise UsageError(
                "--proxy-cgroup is needed in the machine's own network namespace: without it any "
                f"process in {cgroup.path.parent} could take the proxy's place while that is down"
            )
        return find_cgroup("--cgroup", str(cgroup.path.parent))
    found = find_cgroup("--proxy-cgroup", request.proxy_cgroup)
    if found == cgroup:
        raise UsageError(
            f"--proxy-cgroup {request.proxy_cgroup!r}: the same as --cgroup: the proxy's own "
            "connections would come back to it"
        )
    if cgroup.contains(found) and any(each.is_dir() for each in found.path.iterdir()):
        raise UproxyError(
            f"--proxy-cgroup {request.proxy_cgroup!r}: inside --cgroup it may have no cgroups of "
            "its own, whose processes would be captured"
        )
    return found
