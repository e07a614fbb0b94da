"""Workload API messages encoded by Google's protobuf, and an agent by grpcio.

`svid_response` builds a message from `pki` certificates, with any field replaced.  `FakeAgent` is
grpcio's server on a unix socket, which sends what a test queues, so that our client meets another
implementation of HTTP/2 and gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
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


def jwt_bundles_response(**bundles: bytes) -> bytes:
    """Return an encoded JWTBundlesResponse; dots in trust domains are written as `_`."""
    named = {name.replace("_", "."): jwks for name, jwks in bundles.items()}
    return bytes(workload_pb2.JWTBundlesResponse(bundles=named).SerializeToString())


def jwt_svid_response(*tokens: tuple[str, str]) -> bytes:
    """Return an encoded JWTSVIDResponse of (SPIFFE ID, token) pairs."""
    svids = [workload_pb2.JWTSVID(spiffe_id=name, svid=token) for name, token in tokens]
    return bytes(workload_pb2.JWTSVIDResponse(svids=svids).SerializeToString())


class FakeAgent:
    """A Workload API of grpcio's.  Streams take what was `say`d, one word each, in order."""

    def __init__(self, listen: Path | str, options: Iterable[tuple[str, int]] = ()) -> None:
        """`listen` is the path of a unix socket, or host:port."""
        self._listen = f"unix:{listen}" if isinstance(listen, Path) else listen
        self.streams: list[dict[str, str]] = []
        """The metadata of each stream so far."""
        self._words: asyncio.Queue[bytes | End] = asyncio.Queue()
        self._jwt_words: asyncio.Queue[bytes | End] | None = None
        self.token: Callable[[workload_pb2.JWTSVIDRequest], bytes | End] | None = None
        """Answers FetchJWTSVID; None: it isn't served."""
        self._options = list(options)
        self._server: grpc.aio.Server | None = None

    def send(self, *words: bytes | End) -> None:
        """Queue messages and endings."""
        for word in words:
            self._words.put_nowait(word)

    def serve_jwt_bundles(self, *words: bytes | End) -> None:
        """Serve FetchJWTBundles from the next start on, and queue what its streams take."""
        self._jwt_words = self._jwt_words or asyncio.Queue()
        for word in words:
            self._jwt_words.put_nowait(word)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=self._options)
        methods = {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(self._fetch)}
        if self._jwt_words is not None:
            methods["FetchJWTBundles"] = grpc.unary_stream_rpc_method_handler(self._fetch_jwt)
        if self.token is not None:
            methods["FetchJWTSVID"] = grpc.unary_unary_rpc_method_handler(
                self._fetch_token, workload_pb2.JWTSVIDRequest.FromString
            )
        generic = grpc.method_handlers_generic_handler(SERVICE.strip("/"), methods)
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
        async for message in _said(self._words, context):
            yield message

    async def _fetch_jwt(
        self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        assert self._jwt_words is not None
        async for message in _said(self._jwt_words, context):
            yield message

    async def _fetch_token(
        self,
        request: workload_pb2.JWTSVIDRequest,
        context: grpc.aio.ServicerContext[workload_pb2.JWTSVIDRequest, bytes],
    ) -> bytes:
        assert self.token is not None
        answer = self.token(request)
        if isinstance(answer, End):
            await context.abort(answer.status or grpc.StatusCode.UNKNOWN, answer.text)
        assert isinstance(answer, bytes)
        return answer

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


async def _said(
    words: asyncio.Queue[bytes | End], context: grpc.aio.ServicerContext[bytes, bytes]
) -> AsyncIterator[bytes]:
    while True:
        word = await words.get()
        if isinstance(word, bytes):
            yield word
        elif word.status is None:
            return
        else:
            await context.abort(word.status, word.text)
