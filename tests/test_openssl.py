"""uproxy.openssl: what OpenSSL is told at its only start.  That no tickets are sent is seen
by a stranger, in e2e/test_openssl_dials_in_to_a_uproxy.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LOADING = """\
import os
before = dict(os.environ)
from uproxy.openssl import load_openssl
load_openssl()
assert os.environ == before, os.environ
from cryptography.hazmat.bindings._rust import openssl
print(openssl._legacy_provider_loaded)
"""


@pytest.mark.parametrize("theirs", [{}, {"OPENSSL_CONF": "/theirs"}])
def test_the_environment_is_as_before_and_the_legacy_algorithms_stay_out(
    theirs: dict[str, str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env={**os.environ, **theirs},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


SHAKING = """\
from OpenSSL import SSL
from cryptography import x509
from uproxy.lab.pki import Authority

issued = Authority("example.org").issue()
server_context, client_context = (SSL.Context(SSL.TLS_METHOD) for _ in range(2))
server_context.use_certificate(issued.chain[0])
server_context.use_privatekey(issued.key)
server, client = (SSL.Connection(context, None) for context in (server_context, client_context))
server.set_accept_state()
client.set_connect_state()
for _ in range(2):
    for here, there in ((client, server), (server, client)):
        try:
            here.do_handshake()
        except SSL.WantReadError:
            pass
        try:
            there.bio_write(here.bio_read(65536))
        except SSL.WantReadError:
            print("nothing more from", "server" if here is server else "client")
"""
"""A handshake of TLS 1.3: what the server sends after the client's last message is tickets."""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", ""),
        ("from uproxy.openssl import load_openssl; load_openssl()\n", "from server"),
    ],
)
def test_tickets_are_sent_by_others_but_not_by_us(before: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", before + SHAKING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip().removeprefix("nothing more ") == said
