"""Who may ask the admin listener: the defense against web pages and against other machines.

A page from anywhere can make a browser talk to 127.0.0.1, and can give its own name our
address (DNS rebinding), so `Host` must be an address or a name of ours and `Origin` absent or
the same.  The port in `Host` is free: behind `kubectl port-forward` it is another one, and
rebinding needs a name, not a port.  A unix socket is out of a browser's reach, so its `Host`
is not judged.  Fails closed: what can't be read is refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from uproxy.model import TcpAddress
from uproxy.proxy.admin.messages import Asker, Request, Response, text


def refuse_stranger(request: Request) -> Response | None:
    """None, or 403 with why: `Host` isn't ours, or `Origin` is another."""
    if isinstance(request.asker.local, TcpAddress):
        host = _host_name(request.host or "")
        if host is None or not _is_ours(host, request.asker):
            return text(403, _host_words(request))
    if request.origin is not None and request.origin.lower() != f"http://{request.host}".lower():
        return text(
            403,
            f"refused: Origin {request.origin!r} is another site; "
            "this listener answers its own status page and programs, not other pages",
        )
    return None


def refuse_remote(request: Request) -> Response | None:
    """None, or 403 with why: the client is on another machine."""
    if request.asker.is_local:
        return None
    return text(
        403,
        f"refused: {request.path} changes state, so it is taken only from this machine (loopback "
        f"or a unix socket), not from {request.asker.peer}",
    )


def _host_name(host: str) -> str | None:
    """`Host` without its port and brackets, lower case; None when it can't be read."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host.lower(), ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    if name.startswith("["):
        return name[1:-1] if name.endswith("]") else None
    return name or None


def _is_ours(host: str, asker: Asker) -> bool:
    ip = _ip(host)
    if ip is None:
        return host in asker.names
    local = asker.local
    return ip.is_loopback or (isinstance(local, TcpAddress) and ip == local.ip)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


def _host_words(request: Request) -> str:
    local = request.asker.local
    said = f"Host {request.host!r}" if request.host else "a request without Host"
    return (
        f"refused: {said} is no address or name of this listener (a web page could have sent it); "
        f"ask for http://{local}/ or http://localhost/"
    )
