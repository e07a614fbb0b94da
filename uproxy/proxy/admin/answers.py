"""The bodies: facts as JSON or as lines of text.  It decides nothing about who may ask."""

from __future__ import annotations

import base64
import functools
import json
import re
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes

from uproxy.proxy.admin.facts import AdminFacts, plain
from uproxy.proxy.admin.messages import JSON, Response, text

CONNECTIONS_SHOWN = 1000
"""Rows of /connections unless `limit=` says otherwise."""
CONNECTIONS_ON_PAGE = 200
"""Rows of /status.json, which is polled: many connections must not cost the event loop much."""


def readyz(facts: AdminFacts) -> Response:
    """200, or 503 with the reasons in words; notes follow in both cases."""
    readiness = facts.readiness()
    lines = readiness.reasons or ("ready",)
    return text(503 if readiness.reasons else 200, "\n".join((*lines, *readiness.notes)))


def livez(facts: AdminFacts) -> Response:
    """200, or 503 with what doesn't answer."""
    silent = facts.liveness()
    return text(503, "\n".join(silent)) if silent else text(200, "alive")


def metrics(facts: AdminFacts, accept: str) -> Response:
    content_type, body = facts.render_metrics(accept)
    return Response(200, body, content_type)


def config_dump(facts: AdminFacts) -> Response:
    return _pretty(facts.config_dump())


def certs(facts: AdminFacts) -> Response:
    return _pretty(facts.certificates())


def connections(facts: AdminFacts, limit: int) -> Response:
    return _compact(facts.connections(limit))


def l7() -> Response:
    """This version sends nothing through L7 proxies, and says so."""
    return _pretty({"l7_proxies": []})


def status(facts: AdminFacts, now: datetime) -> Response:
    """Everything the page and `uproxy status` show, taken at one moment."""
    open_now = facts.connections(CONNECTIONS_ON_PAGE)
    return _compact(
        {
            "now": now,
            "process": facts.process(),
            "readiness": facts.readiness(),
            "liveness": facts.liveness(),
            "certificates": facts.certificates(),
            "doors": facts.doors(),
            "destinations": facts.destinations(),
            "l7_proxies": [],
            "connections_total": open_now.total,
            "connections": open_now.connections,
            "denials": facts.denials(),
            "outcomes": facts.outcomes(),
        }
    )


@functools.cache
def page() -> Response:
    """The status page.  Its policy names its own script and style by hash: nothing else runs."""
    html = Path(__file__).with_name("status.html").read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hashes(b'script', html)}; "
        f"style-src {_hashes(b'style', html)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (("Content-Security-Policy", policy),)
    return Response(200, html, "text/html; charset=utf-8", headers)


def _hashes(tag: bytes, html: bytes) -> str:
    """The CSP sources for the inline elements called `tag` (CSP level 3 §8.3)."""
    found = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(_sha256(element)).decode()}'" for element in found)


def _sha256(data: bytes) -> bytes:
    # not hashlib: it would map the system's libcrypto beside the one in use
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _pretty(value: object) -> Response:
    return Response(200, json.dumps(plain(value), indent=2).encode() + b"\n", JSON)


def _compact(value: object) -> Response:
    # json's indentation runs in Python, ten times as slow: not for what may be long
    return Response(200, json.dumps(plain(value)).encode() + b"\n", JSON)
