"""Builds the answers: facts as JSON or as lines of text.

Whether a request is answered at all is decided by `guard` and `router`.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes

from uproxy.proxy.admin.messages import JSON, Response, text
from uproxy.proxy.admin.row import plain
from uproxy.proxy.admin.vitals import Vitals

if TYPE_CHECKING:
    from uproxy.proxy.admin.facts import AdminFacts

CONNECTIONS_SHOWN = 1000
"""How many rows /connections has unless `limit=` says otherwise."""
CONNECTIONS_ON_PAGE = 200
"""How many rows /status.json has; it is polled, so it must stay cheap with many connections."""
PEERS_ON_PAGE = 20
"""How many peers with open connections it has."""
TROUBLES_ON_PAGE = 20
"""How many causes of trouble it has."""

PUBLIC_WORDS = frozenset(
    {"starting", "draining", "no identity yet", "no identity any more", "config_stale",
     "identity_stale", "jwt_bundles_stale", "limits_clamped", "limits_near", "token_missing",
     "token_stale"}
)  # fmt: skip
"""The beginnings of reasons and notes that clients on other machines may read; the text after
them contains values from the configuration, the environment and the agent."""


def readyz(vitals: Vitals, *, values: bool) -> Response:
    """Return 200, or 503 with the reasons in words; notes follow in both cases.

    Args:
        values: whether to give reasons in full; otherwise only those beginnings in PUBLIC_WORDS.
    """
    readiness = vitals.readiness()
    reasons, notes = readiness.reasons, readiness.notes
    if not values:
        reasons = tuple(_public(each) or "not ready" for each in reasons)
        notes = tuple(filter(None, map(_public, notes)))
    lines = reasons or ("ready",)
    return text(503 if reasons else 200, "\n".join((*lines, *notes)))


def _public(reason: str) -> str | None:
    """Return the beginning of a reason or note if it is in PUBLIC_WORDS; else None."""
    word, _, _values = reason.partition(": ")
    return word if word in PUBLIC_WORDS else None


def livez(vitals: Vitals) -> Response:
    """Return 200, or 503 with the parts that don't respond."""
    silent = vitals.liveness()
    return text(503, "\n".join(silent)) if silent else text(200, "alive")


def metrics(vitals: Vitals, accept: str) -> Response:
    """Return the metrics in the format that the Accept header asks for."""
    content_type, body = vitals.render_metrics(accept)
    return Response(200, body, content_type)


def config_dump(facts: AdminFacts) -> Response:
    """Return the settings in force as JSON."""
    return _pretty(facts.config_dump())


def certs(facts: AdminFacts) -> Response:
    """Return our SVID and the bundles as JSON, without keys."""
    return _pretty(facts.certificates())


def connections(facts: AdminFacts, limit: int) -> Response:
    """Return the newest open connections as JSON, at most `limit`."""
    return _compact(facts.connections(limit))


def l7(facts: AdminFacts) -> Response:
    """Return the L7 proxies as JSON, with their addresses and how these fare."""
    return _pretty({"l7_proxies": facts.l7_proxies()})


def status(facts: AdminFacts, now: datetime) -> Response:
    """Return everything that the page and `uproxy status` show, as JSON."""
    # imported here to save memory: most are never asked
    from uproxy.proxy.admin.trouble import Moment, find, headline

    moment = Moment(
        now=now,
        readiness=facts.readiness(),
        liveness=facts.liveness(),
        certificates=facts.certificates(),
        doors=facts.doors(),
        destinations=facts.destinations(),
        l7_proxies=facts.l7_proxies(),
        denials=facts.denials(),
        lost=facts.denials_lost(),
        stale=facts.stale(),
    )
    open_now, peers = facts.connections(CONNECTIONS_ON_PAGE), facts.peers(PEERS_ON_PAGE)
    troubles = find(moment)
    return _compact(
        {
            "now": now,
            "headline": headline(moment, troubles),
            "troubles": troubles[:TROUBLES_ON_PAGE],
            "troubles_total": len(troubles),
            "stale": moment.stale,
            "process": facts.process(),
            "readiness": moment.readiness,
            "liveness": moment.liveness,
            "certificates": moment.certificates,
            "doors": moment.doors,
            "destinations": moment.destinations,
            "l7_proxies": moment.l7_proxies,
            "connections_total": open_now.total,
            "connections": open_now.connections,
            "peers_total": peers.total,
            "peers": peers.peers,
            "denials": moment.denials,
            "outcomes": facts.outcomes(),
            "rates": facts.rates(),
        }
    )


@functools.cache
def page() -> Response:
    """Return the status page.  Its Content-Security-Policy allows its own script and style, by
    their hashes, and nothing else."""
    html = Path(__file__).with_name("status.html").read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hashes(b'script', html)}; "
        f"style-src {_hashes(b'style', html)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (("Content-Security-Policy", policy),)
    return Response(200, html, "text/html; charset=utf-8", headers)


def _hashes(tag: bytes, html: bytes) -> str:
    """Return the CSP source list that allows the inline elements called `tag` (CSP level 3
    §8.3)."""
    found = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(_sha256(element)).decode()}'" for element in found)


def _sha256(data: bytes) -> bytes:
    """Return the SHA-256 digest."""
    # not by hashlib, which would load the system's libcrypto in addition to ours
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _pretty(value: object) -> Response:
    """Return indented JSON."""
    return Response(200, json.dumps(plain(value), indent=2).encode() + b"\n", JSON)


def _compact(value: object) -> Response:
    """Return JSON on one line."""
    # with an indent json uses its Python encoder, ten times slower: too slow for long answers
    return Response(200, json.dumps(plain(value)).encode() + b"\n", JSON)
