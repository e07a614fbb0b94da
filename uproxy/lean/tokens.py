"""The parts of PyJWT that uProxy uses, imported without the rest of the package.

Importing the package itself would load a client of web servers, and with it http.client and ssl:
tokens are checked with keys that we have, and `make standalone` has no ssl.
uProxy imports PyJWT only here, and this module only when there are tokens.
"""

from __future__ import annotations

from uproxy.lean import packages

with packages.package_not_run("jwt"):
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm
    from jwt.api_jws import PyJWS
    from jwt.exceptions import PyJWTError

__all__ = ["ECAlgorithm", "PyJWS", "PyJWTError", "RSAAlgorithm"]
