"""Creates, configures and closes sockets, and explains their errors in words.

All sockets are non-blocking from the start; the engine waits for them and moves the bytes.

Rules: `[::]` listens for IPv4 too, any other IPv6 address for IPv6 only; the file of a unix
socket is replaced if nobody listens on it any more, otherwise refused; a reset is SO_LINGER 0.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from uproxy.errors import ConfigError, InUseError, NotPermittedError, UproxyError, in_words
from uproxy.model import Address, Mistake, TcpAddress, UnixAddress
from uproxy.sockaddr import scope_id
from uproxy.socketwords import cannot_listen
from uproxy.socketwords import explain as explain  # re-exported: callers look for it here

BACKLOG: Final = 4096
"""The length of the accept queue; the kernel limits it to net.core.somaxconn."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""Seconds of silence, seconds between probes, probes: a dead peer is detected in two minutes."""

CONNECTION_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, option, value) for option, value in KEEPALIVE),
)
"""(level, option, value) of each TCP connection: no Nagle delay, and keepalive."""

_created_paths: Final[set[str]] = set()  # paths of the unix sockets that `listen` created

_RESET: Final = struct.pack("ii", 1, 0)


def listen(address: Address, mode: int | None = None, owner: str | None = None) -> socket.socket:
    """Return a new non-blocking listening socket.

    Args:
        address: a literal address; names are refused.
        mode: permission bits of a unix socket; None: what the umask leaves.
        owner: owner of a unix socket: `user`, `user:group` or numbers.

    Raises:
        NotPermittedError: the message names the missing privilege.
        UproxyError: the address is in use or isn't ours; a folder, user or group doesn't exist.
    """
    if isinstance(address, UnixAddress):
        return _listen_unix(address, mode, owner)
    return _listen_tcp(address)


def defer_accept(listener: socket.socket, seconds: int) -> None:
    """Let the kernel keep TCP connections until they have sent something, for about `seconds`:
    silent ones cost no descriptor.  Only where the client speaks first; on a unix socket, and in
    kernels without it, connections are accepted at once."""
    if listener.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)


def adopt(descriptor: int) -> socket.socket:
    """Return the listening socket with this descriptor, which systemd opened.

    Raises:
        UproxyError: the descriptor is no listening stream socket.
    """
    try:
        listener = socket.socket(fileno=descriptor)
        accepting = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UproxyError(
            f"descriptor {descriptor} is no socket ({in_words(error)}): was it passed on?"
        ) from None
    if listener.type != socket.SOCK_STREAM or not accepting:
        listener.detach()
        raise UproxyError(
            f"descriptor {descriptor} is no listening stream socket: use ListenStream="
        )
    _tune_listener(listener)
    return listener


def release(listener: socket.socket) -> None:
    """Close a listening socket, and remove the unix socket's file that `listen` made for it.

    The file stays if another process now listens on it. The file of an adopted socket always
    stays: connecting to it, to find out, would make systemd start the service.
    """
    if listener.fileno() == -1:
        return
    name = listener.getsockname()
    listener.close()
    if name in _created_paths:
        _created_paths.discard(name)
        if not _has_listener(name):
            Path(name).unlink(missing_ok=True)


def _listen_tcp(address: TcpAddress) -> socket.socket:
    ip = address.ip
    if ip is None:
        raise ConfigError((Mistake("listen", "must be an IP address, not a name", str(address)),))
    try:
        listener = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET)
    except OSError as error:
        raise cannot_listen(address, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if isinstance(ip, IPv6Address):
            alone = int(not ip.is_unspecified)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
        listener.bind(_name_of(address))
        listener.listen(BACKLOG)
        _tune_listener(listener)
    except OSError as error:
        listener.close()
        raise cannot_listen(address, error) from None
    return listener


def _name_of(address: TcpAddress) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address as Python's bind and connect take it.  They ignore the zone of
    `fe80::1%eth0` unless it is given as the number of the interface.

    Raises:
        OSError: there is no such interface.
    """
    host, _, zone = address.host.partition("%")
    if not zone:
        return host, address.port
    return host, address.port, 0, scope_id(zone)


def _listen_unix(address: UnixAddress, mode: int | None, owner: str | None) -> socket.socket:
    path = Path(address.path)
    try:
        listener = socket.socket(socket.AF_UNIX)
    except OSError as error:
        raise cannot_listen(address, error) from None
    try:
        _remove_stale(path)
        _bind(listener, path, mode)
        try:
            # nobody can connect before listen(), so the owner is never wrong for a connection
            if owner is not None:
                _change_owner(path, owner)
            listener.listen(BACKLOG)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        listener.close()
        raise cannot_listen(address, error) from None
    except UproxyError:
        listener.close()
        raise
    _created_paths.add(address.path)
    _tune_listener(listener)
    return listener


def _bind(listener: socket.socket, path: Path, mode: int | None) -> None:
    """Bind with these permissions from the start: a chmod afterwards could hit another file
    that somebody with access to the folder has put in its place."""
    if mode is None:
        listener.bind(str(path))
        return
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    """Remove a socket's file if nobody listens on it; raise UproxyError if somebody does.

    Raises:
        UproxyError: the path is another kind of file, or another process listens on it.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UproxyError(
            f"unix://{path} is in the way and is no socket: move it or listen elsewhere"
        )
    if _has_listener(str(path)):
        raise InUseError(f"unix://{path} is in use: another process answers there")
    path.unlink()


def _has_listener(path: str) -> bool:
    """Return whether somebody listens on a unix socket; True if that can't be found out."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)


def owner_ids(path: Path, owner: str) -> tuple[int, int]:
    """Return the user and group ids of `owner`; a group id of -1 means: leave it unchanged.

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


def _change_owner(path: Path, owner: str) -> None:
    uid, gid = owner_ids(path, owner)
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except PermissionError:
        raise NotPermittedError(
            f"unix://{path} can't be given to {owner!r}: that needs CAP_CHOWN, or run as that user"
        ) from None


def _tune_listener(listener: socket.socket) -> None:
    """Set the options that accepted sockets inherit, and make the listener non-blocking."""
    listener.setblocking(False)
    tune(listener)


def has_ipv6() -> bool:
    """Return whether this kernel has IPv6."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True


def tune(connection: socket.socket) -> None:
    """Set CONNECTION_OPTIONS on a TCP socket; do nothing with a unix socket."""
    if connection.family == socket.AF_UNIX:
        return
    for level, option, value in CONNECTION_OPTIONS:
        connection.setsockopt(level, option, value)


def start_connecting(
    address: Address, prepare: Callable[[socket.socket], None] = lambda _connection: None
) -> tuple[socket.socket, int]:
    """Start a non-blocking connect to a literal address; return the socket and connect's errno.
    `prepare` is called with the new socket before.

    0: connected; EINPROGRESS: wait until it is writable, then ask `connect_error`; EAGAIN (unix
    sockets): the accept queue is full, try again; anything else: failed.

    Raises:
        OSError: no socket could be made (EMFILE, a family this kernel doesn't have), or the zone of
            the address is no interface of this machine.
    """
    if isinstance(address, UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        target: str | tuple[object, ...] = address.path
    else:
        target = _name_of(address)
        connection = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        connection.setblocking(False)
        tune(connection)
        prepare(connection)
        return connection, connection.connect_ex(target)
    except OSError:
        connection.close()
        raise


def connect_error(connection: socket.socket) -> int:
    """Return the errno with which a connect ended; 0: connected.

    A connection to itself counts as refused: nobody listens there, and the kernel chose the
    dialled port as local port (TCP's simultaneous open).
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
    """Close a TCP connection with a reset, discarding unsent bytes; just close a unix socket."""
    if connection.fileno() == -1:
        return
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def address_of(name: object, unix: UnixAddress) -> Address:
    """Return what getpeername or getsockname gave as an address, IPv4-mapped ones as IPv4.  For
    unix sockets, whose clients have no name, return `unix`."""
    if not isinstance(name, tuple):
        return unix
    host = str(name[0])
    if ":" in host:
        ip = ip_address(host)
        mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
        host = str(mapped or host)
    return TcpAddress(host, int(name[1]))


def tcp_address_of(name: object) -> TcpAddress | None:
    """Return the same; None for unix sockets."""
    found = address_of(name, UnixAddress(""))
    return found if isinstance(found, TcpAddress) else None
