"""Workload API messages encoded by Google's protobuf, and an agent by grpcio.

`svid_response` builds a message from `pki` certificates, with any field replaced.  `FakeAgent` is
grpcio's server on a unix socket, which sends what a test queues, so that our client meets another
implementation of HTTP/2 and gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe._proto import workload_pb2

from uproxy.identity.workload_api.framing import SERVICE
from uproxy.lab.pki import Authority, Issued


def svid_message(issued: Issued, authority: Authority, **spoiled: Any) -> workload_pb2.X509SVID:
    """Return one X509SVID; `spoiled` replaces fields."""
    fields: dict[str, Any] = {
        "spiffe_id": spoiled.get("spiffe_id") or issued.spiffe_id,
        "x509_svid": b"".join(issued.der),
        "x509_svid_key": issued.key_der,
        "bundle": authority.der,
    }
    return workload_pb2.X509SVID(**{**fields, **spoiled})


def svid_response(
    *svids: workload_pb2.X509SVID,
    federated: Mapping[str, bytes] | None = None,
    crls: Iterable[x509.CertificateRevocationList] = (),
) -> bytes:
    """Return an encoded X509SVIDResponse."""
    message = workload_pb2.X509SVIDResponse(
        svids=svids,
        crl=[crl.public_bytes(Encoding.DER) for crl in crls],
        federated_bundles=federated or {},
    )
    return bytes(message.SerializeToString())


def good_response(path: str = "/workload", trust_domain: str = "example.org") -> bytes:
    """Return a message with one valid SVID of a new authority."""
    authority = Authority(trust_domain)
    return svid_response(svid_message(authority.issue(path), authority))


@dataclass(frozen=True, slots=True)
class End:
    """The agent ends the stream; without a status, with OK."""

    status: grpc.StatusCode | None = None
    text: str = ""


class FakeAgent:
    """A Workload API of grpcio's.  Streams take what was `say`d, one word each, in order."""

    def __init__(self, listen: Path | str, options: Iterable[tuple[str, int]] = ()) -> None:
        """`listen` is the path of a unix socket, or host:port."""
        self._listen = f"unix:{listen}" if isinstance(listen, Path) else listen
        self.streams: list[dict[str, str]] = []
        """The metadata of each stream so far."""
        self._words: asyncio.Queue[bytes | End] = asyncio.Queue()
        self._options = list(options)
        self._server: grpc.aio.Server | None = None

    def send(self, *words: bytes | End) -> None:
        """Queue messages and endings."""
        for word in words:
            self._words.put_nowait(word)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=self._options)
        handler = grpc.unary_stream_rpc_method_handler(self._fetch)
        service = SERVICE.strip("/")
        generic = grpc.method_handlers_generic_handler(service, {"FetchX509SVID": handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(self._listen)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _fetch(
        self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        self.streams.append(metadata)
        while True:
            word = await self._words.get()
            if isinstance(word, bytes):
                yield word
            elif word.status is None:
                return
            else:
                await context.abort(word.status, word.text)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.stop()
