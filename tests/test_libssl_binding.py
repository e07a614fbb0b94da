"""The binding: OpenSSL's functions, each listed once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from uproxy.errors import EngineError, IdentityError
from uproxy.identity.private_key import parse_private_key
from uproxy.libssl import binding
from uproxy.libssl.binding import LONGEST_KEY
from uproxy.transport.native._engine import OPENSSL_FUNCTIONS

ENGINE = Path(__file__).parents[1] / "uproxy" / "transport" / "native"


def test_every_name_in_use_is_checked_for() -> None:
    pages = Path(binding.__file__).parent.glob("*.py")
    source = "\n".join(page.read_text() for page in pages)
    assert set(re.findall(r"\blib\.(\w+)", source)) == set(binding.NAMES)


def words(declaration: str) -> str:
    """A declaration without what C and Cython write differently."""
    return re.sub(r"\s*([(),*])\s*", r"\1", declaration).replace("(void)", "()")


def test_cython_declares_the_functions_that_c_lists_with_the_same_types() -> None:
    listed = re.findall(r"F\((.+?), (\w+), (\(.*\))\)", (ENGINE / "machine.h").read_text())
    declared = re.findall(
        r'^    (.+?)(\w+) "ossl\.(\w+)"(\(.*\))$', (ENGINE / "openssl.pxd").read_text(), re.M
    )
    assert len(listed) == len(OPENSSL_FUNCTIONS) > 0
    assert all(name == called for _, name, called, _ in declared)
    assert {words(f"{result} {name}{arguments}") for result, name, arguments in listed} == {
        words(f"{result}{name}{arguments}") for result, name, _, arguments in declared
    }


def test_every_function_that_the_threads_call_has_an_address() -> None:
    found = binding.addresses(OPENSSL_FUNCTIONS)
    assert tuple(found) == OPENSSL_FUNCTIONS
    assert all(found.values())


def test_a_function_that_the_library_lacks_is_named() -> None:
    with pytest.raises(EngineError, match="the TLS library lacks SSL_dream"):
        binding.addresses(("SSL_new", "SSL_dream"))


_KEY_IN_THE_HEAP = """
import re
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding, NoEncryption, PrivateFormat, load_pem_private_key)
from uproxy.identity.private_key import parse_private_key
from uproxy.libssl import overwrite_freed

def copies():
    found = 0
    with open("/proc/self/mem", "rb", 0) as memory, open("/proc/self/maps") as maps:
        for begin, end in re.findall(r"([0-9a-f]+)-([0-9a-f]+) rw.*\\[heap\\]", maps.read()):
            memory.seek(int(begin, 16))
            found += memory.read(int(end, 16) - int(begin, 16)).count(number)
    return found

key = ec.generate_private_key(ec.SECP256R1())
number = key.private_numbers().private_value.to_bytes(32, "big")
"""
"""Counts what is left of a private key's encoding where malloc has its blocks."""


@pytest.mark.parametrize(
    ("leaves", "cleans"),
    [
        (
            "size = len(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))",
            "overwrite_freed(size)",
        ),
        (
            "pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())\n"
            "load_pem_private_key(pem, None)",
            "parse_private_key(pem)",
        ),
    ],
    ids=["made", "read"],
)
def test_what_is_freed_of_a_keys_encoding_is_overwritten(leaves: str, cleans: str) -> None:
    """Something is left, or nothing would have to be done."""
    program = f"{_KEY_IN_THE_HEAP}\n{leaves}\nprint(copies())\n{cleans}\nprint(copies())\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert before > 0
    assert after == 0


def test_no_more_is_overwritten_because_a_file_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a reload of a file of 1 MiB that is no key would take minutes."""
    asked: list[int] = []
    real = binding.lib

    def malloc(size: int) -> object:
        asked.append(size)
        return real.OPENSSL_malloc(size)

    library = SimpleNamespace(OPENSSL_malloc=malloc, OPENSSL_free=real.OPENSSL_free)
    monkeypatch.setattr(binding, "lib", library)
    for size in (0, 1, 100, 4096, LONGEST_KEY - 1, LONGEST_KEY, 1 << 20):
        binding.overwrite_freed(size)
    assert max(asked) < LONGEST_KEY
    with pytest.raises(IdentityError):
        parse_private_key(bytes(1 << 20))
