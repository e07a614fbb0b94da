"""Text to durations, addresses, networks and permission bits."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from uproxy.config import scalars
from uproxy.model import SystemdAddress, TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("10m", 600), ("1h", 3600), ("0", 0), ("0s", 0),
     ("1h30m", 5400), ("1.5s", 1.5), ("8760h", 31_536_000)],
)  # fmt: skip
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert scalars.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "5 s", "-5s", "s", "5S", "1d", "1e3s", "5s\n", "\u0665s", ".5s", "1_0s"]
)
def test_what_has_no_unit_or_number_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        scalars.duration(text)


def test_a_duration_beyond_a_year_is_a_slip() -> None:
    with pytest.raises(ValueError, match="longer than a year"):
        scalars.duration("8761h")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:8080", "::1", 8080),
        ("[2001:DB8:0::1]:1", "2001:db8::1", 1),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1", 1),
        ("db.internal:5432", "db.internal", 5432),
        ("DB.Internal:5432", "db.internal", 5432),
        ("db.internal.:65535", "db.internal.", 65_535),
        ("my_service:80", "my_service", 80),
        ("xn--mller-kva.example:80", "xn--mller-kva.example", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
    ],
)
def test_a_tcp_address_has_a_canonical_host_and_a_port(text: str, host: str, port: int) -> None:
    assert scalars.tcp(text) == TcpAddress(host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1", "has no port"),
        ("127.0.0.1:0", "1 to 65535"),
        ("127.0.0.1:65536", "1 to 65535"),
        ("127.0.0.1:99999", "1 to 65535"),
        ("127.0.0.1:-1", "must be host:port"),
        ("127.0.0.1: 80", "must be host:port"),
        ("::1:8080", "needs brackets"),
        (":8080", "has no host"),
        ("[127.0.0.1]:80", "no IPv6 address"),
        ("[]:80", "no IPv6 address"),
        ("256.0.0.1:80", "no IPv4 address"),
        ("127.1:80", "no IPv4 address"),
        ("010.0.0.1:80", "no IPv4 address"),
        ("a.1:80", "no IPv4 address"),
        ("-a:80", "neither an address nor a name"),
        ("a b:80", "neither an address nor a name"),
        ("a..b:80", "neither an address nor a name"),
        ("x" * 64 + ":80", "label of more than 63 letters"),
        (".".join(["x" * 60] * 5) + ":80", "more than 253 letters"),
        ("m\u00fcller.example:80", "beyond ASCII; write the name as DNS has it"),
        ("[fe80::1]:80", r"link-local address: add the interface, as in \[fe80::1%eth0\]"),
        ("http://a:80", "without another scheme"),
        ("a:\u0668\u0660", "must be host:port"),
    ],
)
def test_a_wrong_tcp_address_says_what_would_be_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scalars.tcp(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Reviews.Example", "reviews.example"), ("db.internal.", "db.internal"), ("a_b", "a_b")],
)
def test_a_server_name_is_a_host_name_without_a_dot_at_its_end(text: str, name: str) -> None:
    assert scalars.server_name(text) == name


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "::1", "[::1]", "db:5432", "", ".", "a b", "\u00fc.de"]
)
def test_what_is_no_host_name_is_no_server_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|ASCII"):
        scalars.server_name(text)


def test_unix_addresses_have_an_absolute_path_that_fits_a_socket() -> None:
    for text in ("unix:///run/app.sock", "unix:/run/app.sock"):
        assert scalars.target(text) == scalars.listener(text) == UnixAddress("/run/app.sock")
    assert scalars.unix("unix:///" + "x" * 106).path == "/" + "x" * 106
    for text in ("unix://run/app.sock", "unix:///", "unix://", "unix:/", "unix:", "unix:run"):
        with pytest.raises(ValueError, match="absolute path"):
            scalars.target(text)
    with pytest.raises(ValueError, match="at most 107 bytes"):
        scalars.unix("unix:///" + "x" * 107)


def test_nobody_connects_to_every_address() -> None:
    for text in ("0.0.0.0:80", "[::]:80", "224.0.0.1:80"):
        with pytest.raises(ValueError, match="can't be connected to"):
            scalars.target(text)


def test_a_listener_is_an_address_a_unix_socket_or_systemds() -> None:
    assert scalars.listener("0.0.0.0:80") == TcpAddress("0.0.0.0", 80)
    assert scalars.listener("unix:///a") == UnixAddress("/a")
    assert scalars.listener("systemd:api") == SystemdAddress("api")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 for localhost"):
        scalars.listener("localhost:80")
    for text in ("systemd:", "systemd:a:b", "systemd:a b"):
        with pytest.raises(ValueError, match="FileDescriptorName"):
            scalars.listener(text)


def test_the_workload_api_is_a_unix_socket_or_an_address_and_port() -> None:
    for text in (
        "unix:///run/a.sock",
        "unix:/run/a.sock",
        "UNIX:///run/a.sock",
        "Unix:/run/a.sock",
    ):
        assert scalars.workload_api(text) == UnixAddress("/run/a.sock")
    for text in ("unix:///run/a%20b.sock", "unix:/run/%61%20b.sock", "unix:///run/a b.sock"):
        assert scalars.workload_api(text) == UnixAddress("/run/a b.sock")
    assert scalars.workload_api("TCP://[::1]:8000") == TcpAddress("::1", 8000)
    assert scalars.workload_api("tcp://127.0.0.1:8000") == TcpAddress("127.0.0.1", 8000)
    for text in (
        "tcp://localhost:1", "tcp://1.2.3.4", "tcp://1.2.3.4:1/foo", "/run/a.sock",
        "http://127.0.0.1:1", "unix://run/a.sock", "unix:a", "unix:", "unix:///", "unix:@a",
        "unix://localhost/run/a.sock", "unix:///run/a.sock?x=1", "unix:/run/a.sock?",
        "unix:///run/a.sock#f", "unix:///run/100%.sock", "unix:///run/%ff.sock", "unix:/run/%00",
        "tcp:127.0.0.1:8000", "tcp:/127.0.0.1:8000", "tcp://127.0.0.1:8000?x", "tcp://u@1.2.3.4:1",
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            scalars.workload_api(text)
    with pytest.raises(ValueError, match="write unix:///run/a"):
        scalars.workload_api("/run/a.sock")


def test_networks_have_no_bits_beyond_their_prefix() -> None:
    assert scalars.network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert scalars.network("10.0.0.1") == ip_network("10.0.0.1/32")
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/8"):
        scalars.network("10.0.0.1/8")
    with pytest.raises(ValueError, match="must be a network"):
        scalars.network("10.0.0.0/33")


@pytest.mark.parametrize("parse", [scalars.network, scalars.plain_network])
def test_networks_have_no_zone_because_nothing_could_match_it(
    parse: Callable[[str], object],
) -> None:
    for text in ("fe80::1%eth0", "fe80::1%eth0/128", "fe80::%1/64"):
        with pytest.raises(ValueError, match=r"has a zone, .* write fe80::1?$"):
            parse(text)


def test_modes_are_octal() -> None:
    assert scalars.mode("0600") == 0o600
    assert scalars.mode("660") == 0o660
    for text in ("0o600", "0800", "01777", "60", "rw"):
        with pytest.raises(ValueError, match="octal"):
            scalars.mode(text)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (scalars.owner, ["postgres", "1000", "a:b", "1000:1000"], ["", ":", "a:", "a b", "a:b:c"]),
        (scalars.segment, ["web", "A.b-c_1"], ["", ".", "..", "a/b", "*", "a b", "é"]),
        (scalars.label, ["a", "web reads orders", "é"], ["", " a", "a\n", "x" * 129]),
        (scalars.alpn, ["h2", "http/1.1"], ["", "é", "x" * 256]),
        (scalars.file_path, ["a.pem"], [""]),
        (scalars.port, ["1", "65535"], ["0", "65536", "-1", "0x50", "\u0668"]),
        (scalars.whole_number, ["0", "-7", "0x1F", "0o17"], ["", "1.0", "1_0", "9" * 5000, "x"]),
        (scalars.boolean, ["true", "False"], ["yes", "on", "1", ""]),
    ],
)
def test_the_smaller_values(
    parse: Callable[[str], object], good: list[str], bad: list[str]
) -> None:
    for text in good:
        parse(text)
    for text in bad:
        with pytest.raises(ValueError, match="must be"):
            parse(text)


def test_whole_numbers_are_read_by_yaml_1_2() -> None:
    assert [scalars.whole_number(each) for each in ("010", "0o10", "0x10")] == [10, 8, 16]
