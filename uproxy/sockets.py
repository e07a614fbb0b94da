"""Every socket option, and every error of a socket in words.

It creates, tunes and closes sockets; it waits for nothing and moves no bytes: they are
non-blocking from birth, and who waits for them is the engine's affair.

Rules: `[::]` listens for IPv4 too, any other IPv6 address for itself alone; a unix socket
file that nobody answers at is replaced, a live one is refused; a reset is SO_LINGER 0.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from uproxy.errors import ConfigError, NotPermittedError, UproxyError
from uproxy.model import Address, Mistake, TcpAddress, UnixAddress

BACKLOG: Final = 4096
"""The kernel clamps it to net.core.somaxconn."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""Seconds of silence, seconds between probes, probes: a dead peer is known in two minutes."""

CONNECTION_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, option, value) for option, value in KEEPALIVE),
)
"""No Nagle, and keepalive: (level, option, value) of every TCP connection."""

_made: Final[set[str]] = set()  # paths of this process's own unix sockets

_RESET: Final = struct.pack("ii", 1, 0)


def listen(address: Address, mode: int | None = None, owner: str | None = None) -> socket.socket:
    """A listening socket.

    Args:
        address: literal; a name is not an address to listen on.
        mode: permission bits of a unix socket; None leaves them to the umask.
        owner: `user`, `user:group` or numbers, of a unix socket.

    Raises:
        NotPermittedError: the message names the privilege.
        UproxyError: in use, no such address, no such folder, no such user.
    """
    if isinstance(address, UnixAddress):
        return _listen_unix(address, mode, owner)
    return _listen_tcp(address)


def adopt(descriptor: int) -> socket.socket:
    """A listening socket that somebody else opened (systemd, an older uProxy).

    Raises:
        UproxyError: it is no listening stream socket.
    """
    try:
        listener = socket.socket(fileno=descriptor)
        accepting = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UproxyError(
            f"descriptor {descriptor} is no socket ({error.strerror}): was it passed on?"
        ) from None
    if listener.type != socket.SOCK_STREAM or not accepting:
        listener.detach()
        raise UproxyError(
            f"descriptor {descriptor} is no listening stream socket: use ListenStream="
        )
    _tune_listener(listener)
    return listener


def release(listener: socket.socket) -> None:
    """Close a listening socket, and take away the file that `listen` made for it.

    The file stays where another process still listens (it took over), and always where the
    socket was adopted: asking whether somebody listens would wake the service in systemd.
    """
    if listener.fileno() == -1:
        return
    name = listener.getsockname()
    listener.close()
    if name in _made:
        _made.discard(name)
        if not _is_live(name):
            Path(name).unlink(missing_ok=True)


def _listen_tcp(address: TcpAddress) -> socket.socket:
    ip = address.ip
    if ip is None:
        raise ConfigError((Mistake("listen", "must be an IP address, not a name", str(address)),))
    listener = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if isinstance(ip, IPv6Address):
            alone = int(not ip.is_unspecified)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    _tune_listener(listener)
    return listener


def _listen_unix(address: UnixAddress, mode: int | None, owner: str | None) -> socket.socket:
    path = Path(address.path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        _clear_stale(path)
        _bind(listener, path, mode)
        try:
            # nobody gets in before listen(), so there is no moment of a wrong owner
            if owner is not None:
                _give(path, owner)
            listener.listen(BACKLOG)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from None
    except UproxyError:
        listener.close()
        raise
    _made.add(address.path)
    _tune_listener(listener)
    return listener


def _bind(listener: socket.socket, path: Path, mode: int | None) -> None:
    """Make the file with its permissions: changed by its name afterwards, another file could
    have been put in its place by whoever may write to the folder."""
    if mode is None:
        listener.bind(str(path))
        return
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)


def _clear_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UproxyError(
            f"unix://{path} is in the way and is no socket: move it or listen elsewhere"
        )
    if _is_live(str(path)):
        raise UproxyError(f"unix://{path} is in use: another process answers there")
    path.unlink()


def _is_live(path: str) -> bool:
    """Whether somebody listens at a unix socket (or we may not ask)."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)


def owner_ids(path: Path, owner: str) -> tuple[int, int]:
    """The user and the group (-1: stays) that `owner` of the socket at `path` means.

    Raises:
        UproxyError: there is no such user or group.
    """
    user, _, group = owner.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UproxyError(f"owner {owner!r} of unix://{path}: no such user or group") from None
    return uid, gid


def _give(path: Path, owner: str) -> None:
    uid, gid = owner_ids(path, owner)
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except PermissionError:
        raise NotPermittedError(
            f"unix://{path} can't be given to {owner!r}: that needs CAP_CHOWN, or run as that user"
        ) from None


def _tune_listener(listener: socket.socket) -> None:
    """What accepted sockets inherit."""
    listener.setblocking(False)
    tune(listener)


def _cannot_listen(address: Address, error: OSError) -> UproxyError:
    if error.errno == errno.EADDRINUSE:
        holder = _holder(address) if isinstance(address, TcpAddress) else None
        by = f" by {holder}" if holder else ": another process listens there"
        return UproxyError(f"{address} is in use{by}")
    if isinstance(address, TcpAddress):
        if error.errno in (errno.EACCES, errno.EPERM):
            return NotPermittedError(
                f"{address} can't be opened: ports below 1024 need CAP_NET_BIND_SERVICE"
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return UproxyError(f"{address} is no address of this machine")
        return UproxyError(f"{address} can't be opened: {_words(error)}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"{address} can't be made: no write permission for its folder, or not its owner"
        )
    if error.errno == errno.ENOENT:
        return UproxyError(f"{address} can't be made: its folder doesn't exist")
    return UproxyError(f"{address} can't be made: {_words(error)}")


def _holder(address: TcpAddress) -> str | None:
    """`name (pid N)` of the process that listens on the port, where /proc lets us see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in _lines(Path("/proc/net") / table)[1:]:
            fields = line.split()
            listening = fields[3] == "0A"
            if listening and int(fields[1].rpartition(":")[2], 16) == address.port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # another user's process, or one that has just gone
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # no IPv6, or no /proc


# Connections.


def tune(connection: socket.socket) -> None:
    """CONNECTION_OPTIONS on TCP, for a connection or what a listener will accept."""
    if connection.family == socket.AF_UNIX:
        return
    for level, option, value in CONNECTION_OPTIONS:
        connection.setsockopt(level, option, value)


def start_connecting(address: Address) -> tuple[socket.socket, int]:
    """A non-blocking socket on its way to a literal address, and connect's errno.

    0 is connected, EINPROGRESS ask again when writable, EAGAIN (unix sockets: its queue is
    full) try anew, anything else failed.

    Raises:
        OSError: no socket could be made (EMFILE, a family this kernel doesn't have).
    """
    if isinstance(address, UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        target: str | tuple[str, int] = address.path
    else:
        connection = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        target = (address.host, address.port)
    try:
        connection.setblocking(False)
        tune(connection)
        return connection, connection.connect_ex(target)
    except OSError:
        connection.close()
        raise


def connect_error(connection: socket.socket) -> int:
    """The errno a connect ended with, 0 for success.

    A connection with itself counts as refused: nobody listens there, and the kernel has picked
    the very port that was dialled to dial from (TCP's simultaneous open).
    """
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error or connection.family == socket.AF_UNIX:
        return error
    try:
        itself = connection.getpeername() == connection.getsockname()
    except OSError as gone:
        return gone.errno or errno.ENOTCONN
    return errno.ECONNREFUSED if itself else 0


def reset(connection: socket.socket) -> None:
    """Close so that the other side sees a reset, whatever is still unsent (TCP)."""
    if connection.fileno() == -1:
        return
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def address_of(name: object, unix: UnixAddress) -> Address:
    """What getpeername or getsockname said; an IPv4-mapped address as the IPv4 one it is.

    `unix` stands in on unix sockets, where the other side has no name.
    """
    if not isinstance(name, tuple):
        return unix
    host = str(name[0])
    if ":" in host:
        ip = ip_address(host)
        mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
        host = str(mapped or host)
    return TcpAddress(host, int(name[1]))


def explain(error: int, address: Address) -> str:
    """Why an address couldn't be reached, naming the likely cause.  `error` is an errno."""
    if error == errno.ECONNREFUSED:
        return f"connection refused by {address}: is the application running?"
    if error == errno.ENOENT:
        return f"no socket at {address}: is the application running?"
    if error in (errno.EACCES, errno.EPERM):
        return f"no permission to connect to {address}"
    if error in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no route to {address}"
    if error in (errno.EMFILE, errno.ENFILE):
        return f"no descriptor left to connect to {address}: raise LimitNOFILE"
    if error == errno.EADDRNOTAVAIL:
        return f"no local port left to connect to {address}"
    if error == errno.EAGAIN:
        return f"the queue of {address} is full: the application doesn't accept"
    return f"can't connect to {address}: {os.strerror(error).lower()}"


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error).lower()
