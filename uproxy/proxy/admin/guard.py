"""Protects the admin listener against web pages and against other machines.

Any web page can make a browser connect to 127.0.0.1, and can let its own host name resolve to
our address (DNS rebinding).  So `Host` must be one of our addresses or names, and `Origin` must
be absent or ours.  Any port in `Host` is accepted: `kubectl port-forward` changes it, and
rebinding needs a name, not a port.  Browsers can't reach a unix socket, so there `Host` isn't
checked.  Fails closed: a header that can't be parsed is refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from uproxy.model import TcpAddress
from uproxy.proxy.admin.messages import ClientAddresses, Request, Response, text


def refuse_foreign_page(request: Request) -> Response | None:
    """Return 403 with the reason if `Host` isn't ours or `Origin` is another site; None: it may
    pass."""
    if isinstance(request.client.local, TcpAddress):
        host = _host_name(request.host or "")
        if host is None or not _is_ours(host, request.client):
            return text(403, _host_refusal(request))
    if request.origin is not None and request.origin.lower() != f"http://{request.host}".lower():
        return text(
            403,
            f"refused: Origin {request.origin!r} is another site; "
            "this listener answers its own status page and programs, not other pages",
        )
    return None


def refuse_remote(request: Request) -> Response | None:
    """Return 403 with the reason if the client is on another machine; None: it may pass."""
    if request.client.is_local:
        return None
    return text(
        403,
        f"refused: {request.path} changes state, so it is taken only from this machine (loopback "
        f"or a unix socket), not from {request.client.peer}",
    )


def _host_name(host: str) -> str | None:
    """Return the host of a `Host` header in lower case, without port and brackets; None if it
    can't be parsed."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host.lower(), ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    if name.startswith("["):
        return name[1:-1] if name.endswith("]") else None
    return name or None


def _is_ours(host: str, client: ClientAddresses) -> bool:
    """Return whether the host is a loopback address, the address dialled, or one of our names."""
    ip = _ip(host)
    if ip is None:
        return host in client.names
    local = client.local
    return ip.is_loopback or (isinstance(local, TcpAddress) and ip == local.ip)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address, IPv4-mapped ones as IPv4; None if it is a name."""
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


def _host_refusal(request: Request) -> str:
    """Return the text of the refusal."""
    local = request.client.local
    said = f"Host {request.host!r}" if request.host else "a request without Host"
    return (
        f"refused: {said} is no address or name of this listener (a web page could have sent it); "
        f"ask for http://{local}/ or http://localhost/"
    )
