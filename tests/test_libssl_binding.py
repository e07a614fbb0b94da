"""The binding: OpenSSL's functions, each listed once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uproxy.errors import EngineError
from uproxy.libssl import binding
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
