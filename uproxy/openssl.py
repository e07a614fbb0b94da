"""Loading OpenSSL with uProxy's own configuration, whatever the environment says.

OpenSSL reads its configuration once, from the file that a variable of the environment names,
when cryptography is imported: so `load_openssl` must be the first to import it.  uProxy's is
`openssl.cnf`, and cryptography's legacy algorithms (RC4, DES, MD4) stay out.
"""

from __future__ import annotations

import importlib
import os

_OURS = {
    "OPENSSL_CONF": os.path.join(os.path.dirname(__file__), "openssl.cnf"),
    "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1",
}


def load_openssl() -> None:
    """Import cryptography; the environment, which children inherit, is as before afterwards."""
    theirs = {name: os.environ.get(name) for name in _OURS}
    os.environ.update(_OURS)
    try:
        importlib.import_module("cryptography.hazmat.bindings._rust")
    finally:
        for name, value in theirs.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
