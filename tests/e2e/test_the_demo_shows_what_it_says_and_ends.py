"""`uproxy demo --once`, with its own echo and with the distribution's applications."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.demos import Demo

EXPECTED = (
    "✓ frontend is spiffe://example.org/ns/web/sa/frontend for 10 min",
    "✓ orders is spiffe://example.org/ns/db/sa/orders for 10 min",
    "══ HBONE ══",
    "✓ TLS 1.3, TLS_AES_128_GCM_SHA256; ALPN offers h2 only: HTTP/2 inside",
    "X25519MLKEM768 (0x11ec, hybrid post-quantum): 1216 bytes there, 1120 back",
    "handshakes      1, as both uProxies count",
    "✓ refused: a caller without a certificate",
    "it saw          alert certificate_required",
    "✓ refused: a caller with an identity that no rule allows",
    "it saw          403 to its CONNECT 127.0.0.1:",
    "orders says     denied: no rule allows spiffe://example.org/ns/web/sa/newsletter",
    "✓ refused: a caller with frontend's name in a trust domain that orders doesn't trust",
    "it saw          alert unknown_ca",
    "orders says     peer_untrusted (X5-17):",
    "✓ a new handshake is shown the new certificate of orders",
    "✓ a new connection makes a tunnel with the new certificates",
    "✓ the open connection answers as before: ",
    "✓ its client has closed it, and the old tunnel ended with its last stream",
    "✓ `via: l7` is in frontend.yaml, and in force",
    "adds the header `x-lua: hello, spiffe://example.org/ns/web/sa/frontend`",
    "6 GETs are answered 200 200 200 200 200 200",
    "newsletter      GET 200, POST 403",
    "✓ `via: l7` is out again, and the Envoy out of the path",
    "✓ the Envoy is replaced under load: marked `draining: true`, idle, then stopped",
    "answers meanwhile, and no error",
    "✓ 300 requests over each path, one after the other (ms)",
    "✓ a connection that was open all along answers as before: ",
    "✓ the status page of frontend: http://127.0.0.1:",
    "✓ the status page of orders: http://127.0.0.1:",
    "✓ ended: programs, sockets and files are gone",
)


@pytest.mark.parametrize(
    ("apps", "done"),
    [
        ("echo", ("✓ client sent 'pears-", "✓ one tunnel carried all 21 connections")),
        ("real", ("✓ psql created a table", "✓ curl got 'a page of nginx for pears-",
                  "✓ one tunnel carried all 22 connections",
                  "the open connection answers as before: PostgreSQL's backend ")),
    ],
)  # fmt: skip
def test_it_shows_every_step_and_leaves_nothing_behind(apps: str, done: tuple[str, ...]) -> None:
    with Demo("--once", "--apps", apps) as demo:
        code = demo.wait()
        assert code == 0, demo.output
        assert [line for line in (*EXPECTED, *done) if line not in demo.output] == []
        assert max(map(len, demo.output.splitlines())) <= 100
        assert demo.leftovers() == []


def test_a_reader_that_goes_away_ends_it_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "uproxy", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        assert demo.stdout.readline()
        demo.stdout.close()
        assert demo.wait(100) == 1
        assert demo.stderr.read() == b""
