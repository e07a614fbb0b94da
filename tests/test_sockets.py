"""Sockets: how they listen, what they inherit, and their errors in words."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from uproxy import sockets
from uproxy.errors import ConfigError, NotPermittedError, UproxyError
from uproxy.lab.ports import free_port
from uproxy.model import TcpAddress, UnixAddress

HERE = TcpAddress("127.0.0.1", 0)


def bound(listener: socket.socket) -> TcpAddress:
    address = sockets.address_of(listener.getsockname(), UnixAddress(""))
    assert isinstance(address, TcpAddress)
    return address


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without root's privileges, for a test about their absence."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def link_local() -> str:
    """An address of this machine that only means something with its zone."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        packed, *_, interface = line.split()
        if packed.startswith("fe80"):
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed))}%{interface}"
    pytest.skip("no interface of this machine has a link-local address")


# Listening on TCP.


def test_a_listener_is_non_blocking_and_not_inherited_by_children() -> None:
    with sockets.listen(HERE) as listener:
        assert listener.gettimeout() == 0
        assert not os.get_inheritable(listener.fileno())


def test_accepted_connections_have_no_nagle_and_keepalive() -> None:
    with sockets.listen(HERE) as listener, socket.create_connection(listener.getsockname()):
        accepted, _name = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest.mark.parametrize(("host", "v4_too"), [("::", True), ("::1", False)])
def test_only_the_ipv6_wildcard_listens_for_ipv4_too(host: str, v4_too: bool) -> None:
    with sockets.listen(TcpAddress(host, 0)) as listener:
        with closing(socket.socket()) as caller:
            error = caller.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        assert error == (0 if v4_too else errno.ECONNREFUSED)


def test_a_port_can_be_listened_at_again_right_after_a_connection_was_there() -> None:
    listener = sockets.listen(HERE)
    address = bound(listener)
    caller = socket.create_connection((address.host, address.port))
    listener.accept()[0].close()  # our side closes first: TIME_WAIT stays here
    caller.close()
    listener.close()
    sockets.listen(address).close()


def test_an_address_in_use_is_told_with_who_has_it() -> None:
    with sockets.listen(HERE) as listener:
        with pytest.raises(UproxyError) as raised:
            sockets.listen(bound(listener))
        name = Path("/proc/self/comm").read_text().strip()
        assert str(raised.value) == f"{bound(listener)} is in use by {name} (pid {os.getpid()})"


def test_a_low_port_without_the_privilege_names_it(nobody: None) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first == 0:
        pytest.skip("this machine lets everybody open every port")
    with pytest.raises(NotPermittedError, match="CAP_NET_BIND_SERVICE") as raised:
        sockets.listen(TcpAddress("127.0.0.1", first - 1))
    assert raised.value.exit_code == 3


def test_somebody_elses_address_is_refused() -> None:
    with pytest.raises(UproxyError, match=r"192\.0\.2\.1:7 is no address of this machine"):
        sockets.listen(TcpAddress("192.0.2.1", 7))


def test_a_zone_says_where_to_listen_and_where_to_connect() -> None:
    with sockets.listen(TcpAddress(link_local(), 0)) as listener:
        there = TcpAddress(link_local(), listener.getsockname()[1])
        caller, error = sockets.start_connecting(there)
        with caller:
            assert error in (0, errno.EINPROGRESS)
            caller.settimeout(10)
            caller.sendall(b"hello")  # connected
        with pytest.raises(UproxyError, match="zone is no interface of this machine"):
            sockets.listen(TcpAddress("fe80::1%nowhere", 0))
    with pytest.raises(OSError, match="no interface of this name"):
        sockets.start_connecting(TcpAddress("fe80::1%nowhere", 80))


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_listener_that_can_not_even_be_made_is_told(
    error: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none_left(*_args: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(socket, "socket", none_left)
    for address in (HERE, UnixAddress(str(tmp_path / "a"))):
        with pytest.raises(UproxyError, match=os.strerror(error).lower()) as refused:
            sockets.listen(address)
        assert str(address) in str(refused.value)


def test_a_name_is_no_address_to_listen_on() -> None:
    with pytest.raises(ConfigError, match="must be an IP address"):
        sockets.listen(TcpAddress("localhost", 0))


# Listening on unix sockets.


def test_a_unix_socket_has_the_mode_and_owner_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    owner = f"{os.getuid()}:{os.getgid()}"
    with sockets.listen(UnixAddress(str(path)), mode=0o660, owner=owner):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_link_put_in_the_sockets_place_gives_nothing_else_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = tmp_path / "door.sock", tmp_path / "shadow"
    victim.touch(0o600)

    def swap(name: str) -> object:
        path.unlink()
        path.symlink_to(victim)
        return SimpleNamespace(pw_uid=12345)

    monkeypatch.setattr("uproxy.sockets.pwd.getpwnam", swap)
    with sockets.listen(UnixAddress(str(path)), mode=0o666, owner="somebody"):
        found = victim.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)


def test_a_mode_does_not_change_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = tmp_path / "door.sock"
        with sockets.listen(UnixAddress(str(path)), mode=0o666):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
        other = tmp_path / "other.sock"
        with sockets.listen(UnixAddress(str(other))):
            assert stat.S_IMODE(other.stat().st_mode) == 0o750
    finally:
        os.umask(before)


def test_an_owner_nobody_knows_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with pytest.raises(UproxyError, match=r"owner 'no-such-user' of unix://.*: no such user"):
        sockets.listen(UnixAddress(str(path)), owner="no-such-user")
    assert not path.exists()


def test_giving_away_without_the_privilege_names_it(tmp_path: Path, nobody: None) -> None:
    tmp = Path(f"/tmp/uproxy-test-{os.getpid()}")
    tmp.mkdir()
    try:
        with pytest.raises(NotPermittedError, match="CAP_CHOWN"):
            sockets.listen(UnixAddress(str(tmp / "door.sock")), owner="0")
    finally:
        tmp.rmdir()


def test_a_socket_file_that_nobody_answers_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with sockets.listen(UnixAddress(str(path))), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_live_socket_is_refused(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "door.sock"))
    with sockets.listen(address) as first:
        with pytest.raises(UproxyError, match=r"door\.sock is in use: another process answers"):
            sockets.listen(address)
        assert first.fileno() != -1
        assert Path(address.path).exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(UproxyError, match="is in the way and is no socket"):
        sockets.listen(UnixAddress(str(path)))
    assert path.read_text() == "data"


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UproxyError, match="its folder doesn't exist"):
        sockets.listen(UnixAddress(f"{tmp_path}/gone/door.sock"))


def test_releasing_takes_the_file_away(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    listener = sockets.listen(UnixAddress(str(path)))
    sockets.release(listener)
    sockets.release(listener)
    assert not path.exists()


def test_releasing_leaves_the_file_to_another_process_that_listens(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    listener = sockets.listen(UnixAddress(str(path)))
    with listener.dup() as taken_over:
        sockets.release(listener)
        assert path.exists()
        assert taken_over.fileno() != -1


def test_releasing_an_adopted_socket_neither_asks_nor_unlinks(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        sockets.release(sockets.adopt(os.dup(theirs.fileno())))
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.accept()
    assert path.exists()


# Adopting.


def test_a_passed_listening_socket_is_adopted() -> None:
    theirs = socket.create_server(("127.0.0.1", 0))
    with theirs, sockets.adopt(os.dup(theirs.fileno())) as adopted:
        assert adopted.getsockname() == theirs.getsockname()
        assert adopted.gettimeout() == 0
        assert adopted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_datagram_socket_is_not_adopted() -> None:
    refused = pytest.raises(UproxyError, match="is no listening stream socket")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong, refused:
        sockets.adopt(wrong.fileno())


def test_what_is_no_socket_is_not_adopted(tmp_path: Path) -> None:
    refused = pytest.raises(UproxyError, match=r"is no socket .*was it passed on")
    with (tmp_path / "file").open("w") as file, refused:
        sockets.adopt(file.fileno())


# Connections.


def test_a_reset_is_what_the_other_side_sees() -> None:
    with (
        sockets.listen(HERE) as listener,
        socket.create_connection(listener.getsockname()) as upstream,
    ):
        accepted, _name = listener.accept()
        upstream.sendall(b"unread")
        sockets.reset(accepted)
        sockets.reset(accepted)
        with pytest.raises(ConnectionResetError):
            upstream.recv(1)


def test_a_connection_with_itself_is_nobody_who_answers() -> None:
    """Dialling a dead local port, the kernel may pick that very port to dial from."""
    with socket.socket() as narcissus:
        narcissus.bind(("127.0.0.1", 0))
        narcissus.connect(narcissus.getsockname())
        assert sockets.connect_error(narcissus) == errno.ECONNREFUSED


def test_connecting_tells_its_errno() -> None:
    address = TcpAddress("127.0.0.1", free_port())
    connection, error = sockets.start_connecting(address)
    with connection:
        if error == errno.EINPROGRESS:
            error = sockets.connect_error(connection)
        assert error == errno.ECONNREFUSED
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("192.0.2.7", 80), "192.0.2.7:80"),
        (("::ffff:192.0.2.7", 80, 0, 0), "192.0.2.7:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        (("fe80::1%lo", 80, 0, 1), "[fe80::1%lo]:80"),
        ("", "unix:///here"),
    ],
)
def test_a_mapped_address_is_the_ipv4_one_it_stands_for(name: object, expected: str) -> None:
    assert str(sockets.address_of(name, UnixAddress("/here"))) == expected


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ECONNREFUSED, "connection refused by 192.0.2.7:80: is the application running?"),
        (errno.EHOSTUNREACH, "no route to 192.0.2.7:80"),
        (errno.EMFILE, "no descriptor left to connect to 192.0.2.7:80: raise LimitNOFILE"),
        (errno.EADDRNOTAVAIL, "no local port left to connect to 192.0.2.7:80"),
        (errno.ETIMEDOUT, "can't connect to 192.0.2.7:80: connection timed out"),
    ],
)
def test_a_failure_to_connect_names_the_likely_cause(error: int, words: str) -> None:
    assert sockets.explain(error, TcpAddress("192.0.2.7", 80), "the application") == words


def test_the_reset_option_is_what_linux_expects() -> None:
    assert struct.unpack("ii", sockets._RESET) == (1, 0)
