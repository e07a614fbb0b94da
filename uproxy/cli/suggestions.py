"""The YAML that would let a refused caller in, for `uproxy explain` and `uproxy check --as`.

Pure.  Rule: it admits that caller to that door, there to that port if callers choose one, and to
nothing else.  A comment in it says what is added to what the file has already, since a key that is
there twice is an error and a list that is replaced shuts others out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container

_LONGEST_NAME = 40


def allow_rule(
    caller: str,
    door: str,
    names: Container[str] = (),
    port: int | None = None,
    via: str | None = None,
) -> str:
    """Return an `authorization` with a rule that lets a SPIFFE ID in at a door; `names` are taken
    by other rules.

    Args:
        port: the application's, behind a door at which callers choose it.
        via: the L7 proxy through which it comes; None: directly.
    """
    who, there = json.dumps(caller), json.dumps(door)
    way = "" if via is None else f", via: [{json.dumps(via)}]"
    ports = "" if port is None else f", ports: [{port}]"
    name = _free_name(f"{_word(caller)}-to-{_word(door)}", names)
    return (
        "authorization:  # append the rule to the file's own list, if there is one\n"
        f"  - {{name: {name}, action: allow, from: {{identities: [{who}]{way}}}, "
        f"to: {{inbound: [{there}]{ports}}}}}"
    )


def bundle_file(trust_domain: str) -> str:
    """Return an `identity` with a bundle for one more trust domain."""
    name = json.dumps(trust_domain)
    return (
        "identity:  # append the last line to the bundles that the file has\n"
        f"  files:\n    bundles:\n      {name}: {json.dumps(trust_domain + '.pem')}"
    )


def expected_identity(destination: str, found: str) -> str:
    """Return a destination that expects one more SPIFFE ID."""
    return (
        "destinations:  # if it is right: append it to the destination's identities\n"
        f"  {json.dumps(destination)}:\n    identities: [{json.dumps(found)}]"
    )


def _word(text: str) -> str:
    """Return the last part of a SPIFFE ID or an address as a part of a name."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    word = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    return word[:_LONGEST_NAME] or "caller"


def _free_name(name: str, names: Container[str]) -> str:
    number, free = 2, name
    while free in names:
        free, number = f"{name}-{number}", number + 1
    return free
