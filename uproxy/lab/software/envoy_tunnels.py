"""Envoy as one end of tunnels (HBONE), or as a waypoint with tunnels on both sides.

`TunnelOriginator` accepts plaintext and opens a stream for each connection; `TunnelTerminator`
accepts tunnels and dials plaintext; `Waypoint` accepts tunnels and opens streams of others.  Each
is configured as Istio does it, with Envoy's own circuit breakers, and checks identities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy import (
    Envoy,
    accepting,
    cluster,
    dialling,
    listener,
    overlaid,
    resources,
    tcp_proxy,
)

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_TLS_1_3 = {
    "common_tls_context": {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
    }
}
_HTTP2_UPSTREAM = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": ("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
_INSIDE = "originate"
"""The listener inside of a waypoint that opens streams."""


class TunnelOriginator(Envoy):
    """Accepts plaintext, and opens a stream to the address `authority` on tunnels to the loopback
    port `target`, where a SPIFFE ID in `expect` must answer.

    `proxy` is merged into the TCP proxy, such as `{"max_connect_attempts": 3}`; `tls` into
    the UpstreamTlsContext, such as `{"max_session_keys": 0}` for no resumption.
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles,
        *,
        target: int,
        authority: str,
        expect: Sequence[str],
        proxy: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        port = free_port()
        proxied = overlaid(tcp_proxy("target", **_originating(authority)), proxy or {})
        far = _tunnels_to("target", target, identity, expect, tls or {})
        door = listener(port, {"name": "tcp_proxy", "typed_config": proxied}, None)
        super().__init__("originator", folder, port, resources(door, far))


class TunnelTerminator(Envoy):
    """Accepts tunnels of the SPIFFE IDs in `trust`, and dials the loopback port `target` for
    each stream of one in `allow`; others are answered with 403.

    `http2` is merged into the options of HTTP/2, `tls` into the DownstreamTlsContext.
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles,
        *,
        target: int,
        allow: Sequence[str],
        trust: Sequence[str] = (),
        http2: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        port = free_port()
        socket = accepting(identity, [*allow, *trust], overlaid(_TLS_1_3, tls or {}))
        door = listener(port, _terminating("target", allow, http2 or {}), socket)
        super().__init__(
            "terminator", folder, port, resources(door, cluster("target", target, None))
        )


class Waypoint(Envoy):
    """Accepts tunnels of the SPIFFE IDs in `allow`, and opens a stream to `authority` for each of
    theirs, on tunnels to the loopback port `target`, where one in `expect` must answer."""

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles,
        *,
        target: int,
        authority: str,
        allow: Sequence[str],
        expect: Sequence[str],
    ) -> None:
        port = free_port()
        socket = accepting(identity, allow, _TLS_1_3)
        door = listener(port, _terminating(_INSIDE, allow, {}), socket)
        proxied = tcp_proxy("target", **_originating(authority))
        inside = {
            "name": _INSIDE,
            "internal_listener": {},
            "filter_chains": [{"filters": [{"name": "tcp_proxy", "typed_config": proxied}]}],
        }
        bootstrap = resources(
            door, _internal(), _tunnels_to("target", target, identity, expect, {})
        )
        bootstrap["static_resources"]["listeners"].append(inside)
        bootstrap["bootstrap_extensions"] = [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3."
                    "InternalListener"
                },
            }
        ]
        super().__init__("waypoint", folder, port, bootstrap)


def _originating(authority: str) -> dict[str, Any]:
    """What makes a TCP proxy open streams, and write a line with how each was answered."""
    return {
        "tunneling_config": {"hostname": authority, "propagate_response_headers": True},
        "access_log": [
            _log(
                "stream: %FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%"
                " %RESPONSE_FLAGS% %UPSTREAM_PEER_URI_SAN%\n"
            )
        ],
    }


def _terminating(to: str, allow: Sequence[str], http2: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter that takes each CONNECT of who is allowed to a cluster."""
    connect = [{"upgrade_type": "CONNECT", "connect_config": {}}]
    route = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": to, "timeout": "0s", "upgrade_configs": connect},
    }
    callers = [{"authenticated": {"principal_name": {"exact": each}}} for each in allow]
    policy = {"permissions": [{"any": True}], "principals": callers}
    rbac = {
        "@type": f"{_FILTERS}.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": {"callers": policy}},
    }
    router = {"@type": f"{_FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "tunnels",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": 100, **http2},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.rbac", "typed_config": rbac},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "access_log": [
            _log(
                "stream: %REQ(:AUTHORITY)% %RESPONSE_CODE% %RESPONSE_FLAGS%"
                " %DOWNSTREAM_PEER_URI_SAN%\n"
            )
        ],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _tunnels_to(
    name: str,
    port: int,
    identity: IdentityFiles,
    expect: Sequence[str],
    tls: Mapping[str, Any],
) -> dict[str, Any]:
    socket = dialling(identity, expect, overlaid(_TLS_1_3, tls))
    return cluster(name, port, socket, typed_extension_protocol_options=_HTTP2_UPSTREAM)


def _internal() -> dict[str, Any]:
    """Return the cluster that leads to the listener inside."""
    inside = {"envoy_internal_address": {"server_listener_name": _INSIDE}}
    sockets = "type.googleapis.com/envoy.extensions.transport_sockets"
    raw = {
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {"@type": f"{sockets}.raw_buffer.v3.RawBuffer"},
    }
    return {
        "name": _INSIDE,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": _INSIDE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": inside}}]}],
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.internal_upstream",
            "typed_config": {
                "@type": f"{sockets}.internal_upstream.v3.InternalUpstreamTransport",
                "transport_socket": raw,
            },
        },
    }


def _log(line: str) -> dict[str, Any]:
    loggers = "type.googleapis.com/envoy.extensions.access_loggers"
    return {
        "name": "stderr",
        "typed_config": {
            "@type": f"{loggers}.stream.v3.StderrAccessLog",
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }
