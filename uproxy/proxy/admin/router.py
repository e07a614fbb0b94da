"""Decides which answer a request gets, by method, path, host, origin and client address.

Pure except for the facts it reads and the three commands it can give.  Rules: each surface
answers only its own paths; on `admin`, requests that `guard` refuses get no other answer; only
POST changes state, and only from this machine; each refusal says what to do instead.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from uproxy.proxy.admin import answers, guard
from uproxy.proxy.admin.messages import Request, Response, Surface, text
from uproxy.proxy.admin.sources import Sources
from uproxy.proxy.admin.vitals import LOG_LEVELS, Vitals

if TYPE_CHECKING:
    from uproxy.proxy.admin.facts import AdminFacts

READ = ("/", "/readyz", "/livez", "/metrics", "/config_dump", "/certs", "/connections", "/l7",
        "/status.json")  # fmt: skip
CHANGE = ("/logging", "/drain", "/quitquitquit")

MAX_PARAMETERS = 10
"""In a query."""

PATHS = {
    Surface.ADMIN: (*READ, *CHANGE),
    Surface.METRICS: ("/metrics",),
    Surface.READY: ("/readyz", "/livez"),
}
"""The paths that each surface answers."""


def respond(surface: Surface, request: Request, sources: Sources, now: datetime) -> Response:
    """Return the answer to one request."""
    if surface is Surface.ADMIN and (refusal := guard.refuse_foreign_page(request)):
        return refusal
    if request.path not in PATHS[surface]:
        return _not_found(surface, request)
    if request.query.count("&") >= MAX_PARAMETERS:
        return text(400, f"{request.path} has a query of more than {MAX_PARAMETERS} parameters")
    if request.path in CHANGE:
        if request.method != "POST":
            return _wrong_method(request, "POST")
        return guard.refuse_remote(request) or _change(request, sources.vitals)
    if request.method not in ("GET", "HEAD"):
        return _wrong_method(request, "GET, HEAD")
    return _read(surface, request, sources, now)


def _read(surface: Surface, request: Request, sources: Sources, now: datetime) -> Response:
    """Answer a GET or HEAD."""
    match request.path:
        case "/readyz":
            return answers.readyz(sources.vitals, values=surface is Surface.ADMIN)
        case "/livez":
            return answers.livez(sources.vitals)
        case "/metrics":
            return answers.metrics(sources.vitals, request.accept)
        case "/connections":
            return _connections(request, sources)
        case "/status.json":
            return answers.status(sources.facts(), now)
        case "/":
            return answers.page()
    return _dump(request.path, sources.facts())


def _dump(path: str, facts: AdminFacts) -> Response:
    match path:
        case "/config_dump":
            return answers.config_dump(facts)
        case "/certs":
            return answers.certs(facts)
    return answers.l7(facts)


def _connections(request: Request, sources: Sources) -> Response:
    limit = _parameter(request, "limit") or str(answers.CONNECTIONS_SHOWN)
    if not (limit.isascii() and limit.isdigit() and len(limit) < 8):
        return text(400, f"limit={limit!r} is no number of connections: /connections?limit=100")
    return answers.connections(sources.facts(), int(limit))


def _change(request: Request, vitals: Vitals) -> Response:
    """Carry out a POST."""
    match request.path:
        case "/logging":
            return _logging(request, vitals)
        case "/drain":
            vitals.drain()
            return text(200, "draining: inbound closes first; this process stays")
    vitals.quit()
    return text(200, "draining, then exiting")


def _logging(request: Request, vitals: Vitals) -> Response:
    level = _parameter(request, "level")
    if level not in LOG_LEVELS:
        said = f"level={level!r} is no log level" if level else "level is missing"
        return text(400, f"{said}: POST /logging?level= one of {', '.join(LOG_LEVELS)}")
    vitals.set_log_level(level)
    return text(200, f"the log level is now {level}")


def _parameter(request: Request, name: str) -> str:
    """Return the last value of a query parameter; empty if there is none."""
    return dict(parse_qsl(request.query)).get(name, "")


def _not_found(surface: Surface, request: Request) -> Response:
    paths = [f"POST {path}" if path in CHANGE else f"GET {path}" for path in PATHS[surface]]
    return text(404, "\n".join((f"nothing at {request.path}; here is:", *paths)))


def _wrong_method(request: Request, allowed: str) -> Response:
    return text(
        405,
        f"{request.path} doesn't take {request.method}: use {allowed.replace(', ', ' or ')}",
        ("Allow", allowed),
    )
