"""Builds Settings from the file's text, the environment and the options.

Pure: it reads no file and no process environment.  The environment overrides the file, options
override both; then variables are replaced.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from uproxy.config.checks import check
from uproxy.config.document import parse
from uproxy.config.fields import ADMIN_OR_OFF, SETTINGS
from uproxy.config.listeners import where
from uproxy.config.nodes import Entry, MapNode, Place, Scalar, Style
from uproxy.config.overrides import apply_overrides
from uproxy.config.records import Draft, build
from uproxy.config.settings import AdminSettings, FilesIdentity, Settings
from uproxy.config.variables import substitute
from uproxy.errors import ConfigError
from uproxy.model import ListenAddress, Mistake

ENDPOINT_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"
"""Names the Workload API's socket (SPIFFE Workload Endpoint §4)."""


def load(
    text: str, *, environ: Mapping[str, str], overrides: Sequence[str], folder: str
) -> Settings:
    """Parse a whole configuration.

    `text` is the file's content, decoded with `errors="surrogateescape"`, so that a byte that
    isn't UTF-8 can be reported with its line and column.  `environ` overrides settings by
    `UPROXY__TIMEOUTS__IDLE`, defines `${NAME}`, and may name the Workload API.  `overrides` are
    the `path=value` of --set.  Relative file names are resolved against `folder`.

    Raises:
        ConfigError: with every mistake, those of the file in its order.
    """
    tree, found = parse(text)
    mistakes = list(found)
    tree = apply_overrides(tree, environ, overrides, mistakes)
    undefined: list[Mistake] = []
    tree = substitute(tree, environ, undefined)
    tree = _with_endpoint(tree, environ)
    draft = SETTINGS.read(tree, "", mistakes)
    if isinstance(draft, Draft):
        mistakes.extend(check(draft))
    # other mistakes about a value whose variable is undefined are left out
    unfinished = {mistake.path for mistake in undefined}
    mistakes = undefined + [each for each in mistakes if each.path not in unfinished]
    settings = None if mistakes else build(draft)
    if not isinstance(settings, Settings):
        raise ConfigError(_in_order(mistakes))
    return _with_absolute_paths(_with_real_listeners(settings), folder)


def load_admin_listen(text: str, *, environ: Mapping[str, str]) -> ListenAddress | None:
    """Return `admin.listen` of a configuration, whatever is wrong elsewhere in it: a running uProxy
    must be found by a file that it has refused since.  None: it is off.

    Args: as for `load`.

    Raises:
        ConfigError: the file isn't YAML, or `admin.listen` itself is wrong.
    """
    tree, _ = parse(text)
    mistakes: list[Mistake] = []
    tree = substitute(apply_overrides(tree, environ, (), mistakes), environ, mistakes)
    node = tree.get("admin")
    admin = AdminSettings() if node is None else ADMIN_OR_OFF.read(node, "admin", mistakes)
    wrong = tuple(each for each in mistakes if each.path in ("admin", "admin.listen"))
    if wrong:
        raise ConfigError(wrong)
    if isinstance(admin, Draft):
        admin = AdminSettings(listen=admin.values.get("listen", AdminSettings().listen))
    if not isinstance(admin, AdminSettings):
        raise AssertionError("a value that is neither read nor a mistake")
    return admin.listen


def _in_order(mistakes: Sequence[Mistake]) -> tuple[Mistake, ...]:
    """Return the mistakes without repetitions, those in the file first, by line and column."""

    def place(mistake: Mistake) -> tuple[bool, int, int]:
        return mistake.line is None, mistake.line or 0, mistake.column or 0

    return tuple(sorted(dict.fromkeys(mistakes), key=place))


def _with_endpoint(tree: MapNode, environ: Mapping[str, str]) -> MapNode:
    """Add `identity.workload_api` from the environment, unless an identity is configured."""
    endpoint = environ.get(ENDPOINT_VARIABLE)
    place = Place(source=f"${ENDPOINT_VARIABLE}")
    identity = tree.get("identity") or MapNode((), place)
    if not endpoint or not isinstance(identity, MapNode):
        return tree
    if identity.get("workload_api") is not None or identity.get("files") is not None:
        return tree
    scalar = Scalar(endpoint, Style.FREE, place)
    identity = replace(identity, entries=(*identity.entries, Entry("workload_api", place, scalar)))
    others = (entry for entry in tree.entries if entry.key != "identity")
    return replace(tree, entries=(*others, Entry("identity", place, identity)))


def _with_real_listeners(settings: Settings) -> Settings:
    """Have doors listen where their sockets will."""
    inbound = (replace(door, listen=where(door.listen, door.captured)) for door in settings.inbound)
    outbound = (
        replace(door, listen=where(door.listen, door.captured)) for door in settings.outbound
    )
    return replace(settings, inbound=tuple(inbound), outbound=tuple(outbound))


def _with_absolute_paths(settings: Settings, folder: str) -> Settings:
    """Resolve the paths of `identity.files` against the folder."""
    files = settings.identity.files
    if files is None:
        return settings
    bundles = {name: posixpath.join(folder, path) for name, path in files.bundles.items()}
    anchored = FilesIdentity(
        svid=posixpath.join(folder, files.svid),
        key=posixpath.join(folder, files.key),
        bundles=MappingProxyType(bundles),
        crls=tuple(posixpath.join(folder, path) for path in files.crls),
    )
    return replace(settings, identity=replace(settings.identity, files=anchored))
