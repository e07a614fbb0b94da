"""The file that is kept about each capture, so that another process can undo it.

A JSON file per capture below /run, written before anything is changed, removed after everything
is undone.  One lock for all of them.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from uproxy.capture.ownership import check_ours, make_folder
from uproxy.capture.places import Namespace
from uproxy.capture.policy import Policy
from uproxy.capture.routing import PolicyRoute
from uproxy.errors import NotPermittedError, UproxyError, UsageError, in_words

FOLDER: Final = Path("/run/uproxy/capture")
VERSION: Final = 1
"""The version of the file's format."""
LONGEST_NAME: Final = 100
"""How many characters a capture's name may have."""
_LONGEST_WORD = 40


class Mode(enum.StrEnum):
    """How connections are brought to the proxy."""

    EBPF = "ebpf"
    NFT = "nft"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for, with everything found out that doesn't change."""

    name: str
    mode: Mode
    cgroup: Path
    cgroup_id: int
    namespace: Namespace
    proxy_cgroup: Path
    """Whose listeners get the connections."""
    proxy_cgroup_id: int
    policy: Policy
    outbound_port: int
    inbound_port: int
    fail_open: bool
    route: PolicyRoute
    bpffs: Path
    short_circuit: tuple[str, ...] | None = None
    """The kernel's flaws that are accepted with it; None: it isn't wanted."""

    @property
    def proxy_ports(self) -> frozenset[int]:
        """The ports to which connections are brought."""
        inbound = {self.inbound_port} if self.policy.captures_inbound else set[int]()
        return frozenset({self.outbound_port, *inbound})

    @property
    def exempt_cgroup_id(self) -> int:
        """The cgroup inside the captured one whose processes aren't captured; 0: none."""
        inside = self.proxy_cgroup.is_relative_to(self.cgroup)
        return self.proxy_cgroup_id if inside else 0


@dataclass(frozen=True, slots=True)
class Record:
    """What the file has about one capture."""

    wanted: Wanted
    sysctls: dict[str, str] = field(default_factory=dict)
    """The values of the kernel's settings from before the capture, by name."""
    programs: str = ""
    """The digest of the attached programs (`programs.digest()`), or of the rules given to nft."""
    listing: str = ""
    """The digest of the table as nft lists it, by which a change of somebody else's is noticed;
    empty with eBPF, and where the command was killed before it was known."""

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps({"version": VERSION, **asdict(self)}, default=_plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Return the record of which `to_json` made this text.

        Raises:
            ValueError, TypeError, KeyError: something else wrote it.
        """
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}")
        return cls(
            _wanted(document["wanted"]),
            dict(document["sysctls"]),
            document["programs"],
            document["listing"],
        )


def default_name(cgroup: Path) -> str:
    """Return a name for the capture of a cgroup: the same for the same path."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", cgroup.name).strip("-")[:_LONGEST_WORD]
    return f"{word}-{zlib.crc32(os.fsencode(cgroup)):08x}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock with which only one process changes captures; wait for it.

    Raises:
        NotPermittedError: we may not write below /run.
        UproxyError: somebody else may write there.
    """
    check_ours(folder)
    try:
        make_folder(folder)
        lock = os.open(folder, os.O_RDONLY)
    except PermissionError:
        raise NotPermittedError(f"{folder}: must be root to write there") from None
    except OSError as error:
        raise UproxyError(f"{folder}: {in_words(error)}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def save(folder: Path, record: Record) -> None:
    """Write a record down; a reader finds the old one or the new one, never a part."""
    path = _path(folder, record.wanted.name)
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o644)  # whatever the umask: nobody else may write it
    draft.write_text(record.to_json())
    draft.replace(path)


@contextlib.contextmanager
def replaced(folder: Path, record: Record) -> Iterator[None]:
    """Write a record, in place of what there is; if the `with` block fails, have that again."""
    earlier = load(folder, record.wanted.name)
    save(folder, record)
    try:
        yield
    except BaseException:
        if earlier is None:
            forget(folder, record.wanted.name)
        else:
            save(folder, earlier)
        raise


def load(folder: Path, name: str) -> Record | None:
    """Return the record of a capture; None: there is none.

    Raises:
        UproxyError: it can't be read, or somebody else may have written it.
    """
    path = _path(folder, name)
    check_ours(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UproxyError(f"{path}: {in_words(error)}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Record:
    """Return the record that a text is; `path` is where it was found.

    Raises:
        UproxyError: another version of uProxy wrote it.
    """
    try:
        return Record.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise UproxyError(
            f"{path}: not written by this version of uproxy ({error}): detach with the one that "
            "attached"
        ) from None


def unknown(folder: Path, name: str) -> UsageError:
    """Return what to say of a name that no capture has."""
    there = ", ".join(names(folder)) or "none"
    return UsageError(f"no capture {name!r} is attached; there are: {there}")


def forget(folder: Path, name: str) -> None:
    """Remove a record."""
    _path(folder, name).unlink(missing_ok=True)


def names(folder: Path) -> list[str]:
    """Return the names of all captures that are written down."""
    return sorted(path.stem for path in folder.glob("*.json"))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _wanted(document: dict[str, Any]) -> Wanted:
    policy = document["policy"]
    namespace = document["namespace"]
    accepted = document.get("short_circuit")
    return Wanted(
        **{
            **document,
            "mode": Mode(document["mode"]),
            "cgroup": Path(document["cgroup"]),
            "namespace": Namespace(**{**namespace, "path": Path(namespace["path"])}),
            "proxy_cgroup": Path(document["proxy_cgroup"]),
            "bpffs": Path(document["bpffs"]),
            "route": PolicyRoute(**document["route"]),
            "short_circuit": None if accepted is None else tuple(accepted),
            "policy": Policy(
                tuple(map(ip_network, policy["included"])),
                tuple(map(ip_network, policy["excluded"])),
                frozenset(policy["included_ports"]),
                frozenset(policy["excluded_ports"]),
                frozenset(policy["inbound"]),
                policy["inbound_all"],
                frozenset(policy["inbound_excluded"]),
            ),
        }
    )
