"""Parsers of single values: durations, addresses, networks, permission bits and the like.

Each takes text and returns the value, or raises ValueError saying what would be right.  They
know no settings, resolve no names and read no files.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import unquote

from uproxy.model import Address, Host, ListenAddress, SystemdAddress, TcpAddress, UnixAddress

MAX_DURATION = 365 * 86_400.0
"""Seconds; longer durations are taken for typing errors."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|h|m|s)"
DURATION = rf"0|(?:{_PART})+"
_DURATION_PART = re.compile(r"([0-9.]+)(ms|h|m|s)")
_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SIZE = r"([0-9]{1,9})(KiB|MiB|GiB)"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMERIC_END = re.compile(r"[0-9.]*[0-9]\.?|.*\.[0-9]+\.?")
"""What can only be meant as an IPv4 address: no top-level domain is a number."""
_TCP = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([0-9]{1,5})")
MODE = "0?[0-7]{3}"
_UNIX_PATH_BYTES = 107
"""The size of sun_path in sockaddr_un without the closing NUL."""
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def duration(text: str) -> float:
    """Return seconds from `500ms`, `5s` or `1h30m`; `0` is 0."""
    if not re.fullmatch(DURATION, text):
        raise ValueError("must be a duration with its unit, such as 500ms, 5s, 10m, 1h (0 is off)")
    seconds = sum(float(n) * _UNITS[unit] for n, unit in _DURATION_PART.findall(text))
    if seconds > MAX_DURATION:
        raise ValueError("is longer than a year; write 0 to switch it off")
    return round(seconds, 9)


def size(text: str) -> int:
    """Return bytes from `64KiB`, `1MiB` or `2GiB`."""
    match = re.fullmatch(SIZE, text)
    if match is None:
        raise ValueError("must be a size with its unit, such as 64KiB or 1MiB")
    return int(match[1]) * _SIZES[match[2]]


def whole_number(text: str) -> int:
    """Parse a YAML 1.2 integer: decimal, 0o octal or 0x hexadecimal."""
    if re.fullmatch("[0-9]{19,}", text):
        raise ValueError("must be a smaller number")
    if not re.fullmatch(r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}", text):
        raise ValueError("must be a whole number")
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def port(text: str) -> int:
    """Parse a port, 1 to 65535."""
    number = int(text) if re.fullmatch("[0-9]{1,5}", text) else 0
    if not 1 <= number <= 65_535:
        raise ValueError("must be a port, 1 to 65535")
    return number


def boolean(text: str) -> bool:
    """Parse `true` or `false`; YAML 1.2 has no `yes` and no `on`."""
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower() == "true"


def unix(text: str) -> UnixAddress:
    """Parse `unix:///run/app.sock`, or `unix:/run/app.sock`, which means the same in a URI."""
    rest = text.removeprefix("unix:")
    path = rest.removeprefix("//")
    if rest == text or not path.startswith("/") or path == "/":
        raise ValueError("must be unix:// and an absolute path, such as unix:///run/app.sock")
    if len(path.encode()) > _UNIX_PATH_BYTES:
        raise ValueError(f"is too long: a socket's path has at most {_UNIX_PATH_BYTES} bytes")
    return UnixAddress(path)


def tcp(text: str) -> TcpAddress:
    """Parse `127.0.0.1:8080`, `[::1]:8080` or `db.internal:5432`.

    IP addresses are returned in canonical form, IPv4-mapped IPv6 ones as IPv4.
    """
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(_why_no_address(text))
    bracketed, host, number = match.groups()
    if bracketed is not None:
        return TcpAddress(_literal(bracketed, 6), port(number))
    if not host:
        raise ValueError(
            "has no host; write 127.0.0.1:PORT, or to listen at every address 0.0.0.0:PORT"
        )
    if host == "*":
        raise ValueError(
            "has * for a host; to listen at every address write 0.0.0.0:PORT or [::]:PORT"
        )
    if _NUMERIC_END.fullmatch(host):
        return TcpAddress(_literal(host, 4), port(number))
    return TcpAddress(_host_name(host), port(number))


def server_name(text: str) -> str:
    """A name for SNI (RFC 6066 section 3): a host name without a dot at its end."""
    if ":" in text or _NUMERIC_END.fullmatch(text):
        raise ValueError("must be a name, not an address: SNI has no addresses; leave the key out")
    return _host_name(text).removesuffix(".")


def _host_name(host: str) -> str:
    """A name as DNS and SNI take it: ASCII, lower case, labels of at most 63 letters."""
    if not host.isascii():
        raise ValueError("has letters beyond ASCII; write the name as DNS has it (xn--…)")
    if len(host.removesuffix(".")) > 253:
        raise ValueError("has a name of more than 253 letters, which DNS can't hold")
    if any(len(label) > 63 for label in host.split(".")):
        raise ValueError("has a label of more than 63 letters, which DNS can't hold")
    if not _HOST.fullmatch(host):
        raise ValueError("has a host that is neither an address nor a name")
    return host.lower()


def _literal(host: str, version: int) -> str:
    """Return an IP address in canonical form; refuse one of another version."""
    try:
        ip = ip_address(host)
    except ValueError:
        ip = None
    if ip is None or ip.version != version:
        raise ValueError(f"has a host that is no IPv{version} address")
    if isinstance(ip, IPv6Address) and ip.is_link_local and ip.scope_id is None:
        raise ValueError(f"is a link-local address: add the interface, as in [{ip}%eth0]:PORT")
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def _why_no_address(text: str) -> str:
    """Return the likely mistake in text that is no TCP address."""
    if "://" in text:
        return "must be host:port or unix:///path, without another scheme"
    if text.startswith("/"):
        return f"has no port; if it is a unix socket, write unix://{text}"
    if text.count(":") > 1 and "[" not in text:
        return "an IPv6 address needs brackets, as in [::1]:8080"
    if ":" not in text:
        return "has no port; write host:port, [ipv6]:port or unix:///path"
    return "must be host:port, [ipv6]:port or unix:///path"


def target(text: str) -> Address:
    """Parse an address to connect to."""
    if text.startswith("unix:"):
        return unix(text)
    return tcp_target(text)


def tcp_target(text: str) -> TcpAddress:
    """Parse a TCP address to connect to."""
    address = tcp(text)
    _refuse_groups(address.ip)
    return address


def tcp_target_only(text: str) -> TcpAddress:
    """Parse a TCP address to connect to where no unix socket can be meant."""
    if _TCP.fullmatch(text) is None:
        raise ValueError("must be host:port or [ipv6]:port")
    return tcp_target(text)


def _refuse_groups(ip: IPv4Address | IPv6Address | None) -> None:
    """Refuse an address that isn't one host's."""
    if ip is not None and (ip.is_unspecified or ip.is_multicast):
        raise ValueError("can't be connected to; name one host, such as 127.0.0.1")


def target_or_host(text: str) -> Address | Host:
    """Parse an address to connect to, or a host without a port: `127.0.0.1`, `::1`, `app`."""
    found = None if text.startswith("unix:") else _host(text)
    if found is None:
        return target(text)
    _refuse_groups(found.ip)
    return found


def _host(text: str) -> Host | None:
    """Return the host that a text is; None: it has a port, or is no host."""
    try:
        if ":" in text:
            return Host(_literal(text.removeprefix("[").removesuffix("]"), 6))
        return Host(_literal(text, 4) if _NUMERIC_END.fullmatch(text) else _host_name(text))
    except ValueError:
        return None


def own_ip(text: str) -> IPv4Address | IPv6Address:
    """Parse an IP address that a host can have as its own; IPv4-mapped IPv6 ones become IPv4."""
    try:
        ip = ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address, such as 10.0.0.7") from None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError("is no address of one host; write one, such as 10.0.0.7")
    if ip.is_link_local:
        raise ValueError("is a link-local address, which means another host on each network")
    return ip


def listener(text: str) -> ListenAddress:
    """Parse an address to listen at; host names are refused, they may have several addresses."""
    if text.startswith("unix:"):
        return unix(text)
    if text.startswith("systemd:"):
        name = text.removeprefix("systemd:")
        # systemd.socket(5): no colon, no control character, at most 255
        if not re.fullmatch(r"[!-9;-~]{1,255}", name):
            raise ValueError("must be systemd:NAME, with the socket's FileDescriptorName=")
        return SystemdAddress(name)
    address = tcp(text)
    if address.ip is None:
        raise ValueError("must listen at an address, not a name; write 127.0.0.1 for localhost")
    return address


def workload_api(text: str) -> UnixAddress | TcpAddress:
    """Parse the Workload API's address, a URI (SPIFFE Workload Endpoint §4): unix:///path,
    unix:/path or tcp://ip:port; the scheme in any case."""
    scheme, _, rest = text.partition(":")
    match scheme.lower():
        case "unix":
            return _unix_endpoint(rest)
        case "tcp" if rest.startswith("//"):
            address = tcp(rest.removeprefix("//"))
            if address.ip is None:
                raise ValueError("needs an IP address after tcp://, not a name")
            return address
    if text.startswith("/"):
        raise ValueError(f"must be a URI: write unix://{text}")
    raise ValueError("must be unix:///path or tcp://ip:port, as the agent's documentation says")


def _unix_endpoint(rest: str) -> UnixAddress:
    """Parse what follows `unix:` in a URI: an absolute path, in which %20 is a space."""
    if "?" in rest or "#" in rest:
        raise ValueError("has a query or fragment; write ? as %3F and # as %23")
    if rest.startswith("//") and not rest.startswith("///"):
        raise ValueError("has a host; a socket has none: write unix:///path")
    if re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise ValueError("has a % that begins no escape; write it as %25")
    try:
        path = unquote(rest.removeprefix("//"), errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has escapes that are no UTF-8") from None
    if "\0" in path:
        raise ValueError("has a zero byte; a socket's path has none")
    return unix(f"unix://{path}")


def network(text: str) -> IPv4Network | IPv6Network:
    """Parse `10.0.0.0/8`, `fd00::/8` or a single address."""
    address, zone, _ = text.partition("%")
    if zone:
        raise ValueError(f"has a zone, but addresses are compared without one; write {address}")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8, or one address") from None
    raise ValueError(f"has bits beyond its prefix; write {loose}")


def plain_network(text: str) -> IPv4Network | IPv6Network:
    """Parse the same; a network of IPv4-mapped IPv6 addresses becomes one of IPv4."""
    found = network(text)
    # what begins as a mapped address does has its 96 bits
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    return found if mapped is None else IPv4Network((mapped, found.prefixlen - 96))


def mode(text: str) -> int:
    """Parse permission bits in octal, such as `"0600"`."""
    if not re.fullmatch(MODE, text):
        raise ValueError('must be permission bits in octal, such as "0600"')
    return int(text, 8)


def owner(text: str) -> str:
    """Check `user`, `user:group` or numbers; return the text."""
    if not _OWNER.fullmatch(text):
        raise ValueError("must be user, user:group, or their numbers")
    return text


def segment(text: str) -> str:
    """Check one segment of a SPIFFE ID's path (SPIFFE-ID §2.2); return the text."""
    if not _SEGMENT.fullmatch(text) or text in (".", ".."):
        raise ValueError("must be one exact path segment: letters, digits, dot, dash, underscore")
    return text


def label(text: str) -> str:
    """Check a name for people: printable, without spaces at its ends; return the text."""
    if not text or len(text) > 128 or not text.isprintable() or text != text.strip():
        raise ValueError("must be 1 to 128 printable characters, without spaces at the ends")
    return text


def alpn(text: str) -> str:
    """Check an ALPN protocol name of 1 to 255 bytes (RFC 7301 §3.1); return the text."""
    if not text.isascii() or not text.isprintable() or not 1 <= len(text) <= 255:
        raise ValueError("must be an ALPN protocol name, such as h2")
    return text


def http_path(text: str) -> str:
    """Check the path, maybe with a query, of an HTTP request (RFC 9112 §3.2.1); return the text."""
    if not re.fullmatch("/[!-~]{0,1023}", text) or "#" in text:
        raise ValueError("must be a path such as /ready: ASCII without blanks, and no fragment")
    return text


def file_path(text: str) -> str:
    """Check that a path isn't empty; return the text."""
    if not text:
        raise ValueError("must be the path of a file")
    return text
