"""uproxy.lean.tokens: PyJWT is there without its client of web servers, for every command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from uproxy.lab.tokens import TokenAuthority

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
sys.modules["_ssl"] = None
from uproxy.cli.parsing import full_parser
from uproxy.lean.tokens import PyJWS
from uproxy.spiffe.jwt_bundles import parse_jwt_bundle
full_parser()
key = parse_jwt_bundle("example.org", sys.argv[1].encode()).keys["first"]
print(PyJWS().decode(sys.argv[2], key.key, ["RS256"]).decode())
"""


def test_without_an_ssl_module_every_command_starts_and_tokens_are_checked() -> None:
    """`make standalone` has none."""
    signer = TokenAuthority("example.org", "RS256", "first")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, signer.jwks.decode(), signer.token("/a", "me")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "spiffe://example.org/a" in done.stdout
