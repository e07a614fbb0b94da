"""Imports without what libraries bring along and a uProxy has no use for.

asyncio and uvloop import `ssl`, cryptography imports `hashlib`, and both would bring the system's
libssl and libcrypto into a process that has an OpenSSL already: memory, and a second library to
keep free of holes.  Other modules are imported and then never asked for anything.  While
`lean_imports` lasts, stand-ins take their places, which refuse to work, or bring in the real one
when they are first used.  Rules: what was imported before is left alone; afterwards whoever else
wants them gets the real ones; a name that a library takes while it is imported is given here as
the real module has it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import typing
from collections.abc import Callable, Iterator
from types import ModuleType

from uproxy.lean import inspection
from uproxy.lean.classes import lean_dataclasses


class AbsentError(Exception):
    """Every class of the stand-in for `ssl`; there are no instances."""

    def __init__(self, *_args: object, **_options: object) -> None:
        raise RuntimeError("the standard ssl isn't in this process: TLS is uproxy.libssl's")


class _NoSsl(ModuleType):
    """Has every name, so that a newer asyncio or uvloop finds the ones it asks for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        # constants are kept as C integers
        return 0 if name.isupper() else AbsentError


class _Postponed(ModuleType):
    """Knows a few of a module's names; every other one brings the module in."""

    def __init__(self, name: str, **known: object) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


_lock = threading.Lock()


def _real(name: str) -> ModuleType:
    with _lock:  # an engine's threads may come here too
        if isinstance(sys.modules.get(name), _Postponed):
            del sys.modules[name]
    return importlib.import_module(name)


def _with_functions(module: str, *names: str) -> _Postponed:
    """Return a stand-in for a module whose functions others import by name: the real module is
    imported when one of them is called."""

    def calling(name: str) -> Callable[..., object]:
        return lambda *args, **options: getattr(_real(module), name)(*args, **options)

    return _Postponed(module, **{name: calling(name) for name in names})


def _taken_by_star(name: str) -> _Postponed:
    """Return a stand-in for a module that its package takes names from with `import *`: it gets
    none but the module's own, which the import of a real one would set."""
    made = _Postponed(name)
    own = name.rpartition(".")[2]
    made.__dict__.update({"__all__": (own,), own: made})
    return made


class _Backend:
    """Stands in for cryptography's backend object, which every ECDSA signature imports and never
    uses."""

    MODULE = "cryptography.hazmat.backends.openssl.backend"

    def __getattr__(self, name: str) -> object:
        return getattr(_real(self.MODULE).backend, name)


def stand_ins() -> Iterator[tuple[str, ModuleType | None]]:
    """Yield each replaced module's name, and its stand-in; None: importing it fails."""
    yield "_hashlib", None  # hashlib then takes Python's own SHA-2
    for each in _modules():
        yield each.__name__, each


def _modules() -> Iterator[ModuleType]:
    yield _NoSsl("ssl")
    # asyncio and uvloop can start processes and have TLS of their own
    yield _Postponed("subprocess", PIPE=-1, STDOUT=-2, DEVNULL=-3, SubprocessError=Exception)
    yield _Postponed("selectors")
    yield _Postponed("asyncio.sslproto")
    # asyncio's own event loop and what it starts: uvloop has both
    yield _taken_by_star("asyncio.unix_events")
    yield _taken_by_star("asyncio.subprocess")
    # asyncio and dataclasses import it; it and others can read source text
    yield _Postponed("inspect", unwrap=_unwrap, get_annotations=_annotations, **inspection.KNOWN)
    yield _Postponed("ast", NodeVisitor=object)
    yield _Postponed("dis", COMPILER_FLAG_NAMES=COMPILER_FLAGS)
    # `traceback` and its `linecache` can read it too
    yield _Postponed("tokenize")
    yield _Postponed("textwrap")
    # argparse would look for translations, of which there are none
    yield _Postponed("gettext", gettext=str, ngettext=_singular_or_plural)
    # cryptography is pinned exactly: certificates may have e-mail addresses, keys SSH's format
    yield _Postponed("random")
    yield _with_functions("email.utils", "parseaddr")
    yield _with_functions("cryptography.hazmat.primitives.serialization.ssh", *_SSH)
    yield _Postponed(_Backend.MODULE, backend=_Backend())
    # kinds of keys that nobody may ever show; `types` has all of them, for annotations alone
    yield _Postponed(f"{_KEYS}.types", **dict.fromkeys(_KEY_TYPES, object))
    for kind in ("ed25519", "ed448", "mldsa", "mlkem", "x25519", "x448"):
        yield _Postponed(f"{_KEYS}.{kind}")
    # its table has 4,096 tuples
    yield _Postponed("hpack.huffman_table", decode_huffman=_decode_huffman)


def _decode_huffman(encoded: bytes | None) -> bytes:
    from uproxy.lean.huffman import decode_huffman

    return decode_huffman(encoded)


def _unwrap(function: object) -> object:
    """As `inspect.unwrap`; asyncio asks it of a callback that it puts into words."""
    return _real("inspect").unwrap(function) if hasattr(function, "__wrapped__") else function


def _annotations(value: object, **options: object) -> object:
    """As `inspect.get_annotations`; dataclasses ask it of a class, in Python 3.12 and 3.13."""
    if isinstance(value, type) and not options and sys.version_info < (3, 14):
        return dict(vars(value).get("__annotations__", {}))
    return _real("inspect").get_annotations(value, **options)


COMPILER_FLAGS = {
    1: "OPTIMIZED",
    2: "NEWLOCALS",
    4: "VARARGS",
    8: "VARKEYWORDS",
    16: "NESTED",
    32: "GENERATOR",
    64: "NOFREE",
    inspection.COROUTINE: "COROUTINE",
    256: "ITERABLE_COROUTINE",
    512: "ASYNC_GENERATOR",
}
"""The flags of code objects, of which `inspect` makes its constants (`inspect.CO_…`)."""

_KEYS = "cryptography.hazmat.primitives.asymmetric"
_KEY_TYPES = (
    "CertificateIssuerPrivateKeyTypes",
    "CertificateIssuerPublicKeyTypes",
    "CertificatePublicKeyTypes",
    "PrivateKeyTypes",
    "PublicKeyTypes",
)

_SSH = (
    "SSHCertPrivateKeyTypes",
    "SSHCertPublicKeyTypes",
    "SSHCertificate",
    "SSHCertificateBuilder",
    "SSHCertificateType",
    "SSHPrivateKeyTypes",
    "SSHPublicKeyTypes",
    "load_ssh_private_key",
    "load_ssh_public_identity",
    "load_ssh_public_key",
    "ssh_key_fingerprint",
)


def _singular_or_plural(singular: str, plural: str, number: int) -> str:
    return singular if number == 1 else plural


@contextlib.contextmanager
def forward_references_not_compiled() -> Iterator[None]:
    """Types that are given as strings in this block are kept as strings: the first `compile` of a
    process makes a class for each kind of syntax, and nobody evaluates these."""
    # the module's own name comes before the built-in
    vars(typing)["compile"] = lambda *_args: None
    try:
        yield
    finally:
        del vars(typing)["compile"]


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Import inside this block what would import more than a uProxy needs."""
    placed = {name: each for name, each in stand_ins() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]  # None is import's own word
    try:
        with lean_dataclasses(), forward_references_not_compiled():
            yield
    finally:
        for name, stand_in in placed.items():
            # the real one may have been imported meanwhile
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
