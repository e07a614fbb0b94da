"""A path from a leaf to a root is valid, or its fault is told."""

from __future__ import annotations

import threading

import pytest

from uproxy.lab.pki import Authority
from uproxy.libssl.binding import lib
from uproxy.libssl.paths import Anchor, PathError

CA = Authority("example.org")
OTHER = Authority("other.test")
BELOW = CA.intermediate()


def test_a_path_to_the_root_is_valid() -> None:
    Anchor(CA.der).validate(CA.issue().der)
    Anchor(CA.der).validate(BELOW.intermediate().issue().der)


def test_an_intermediate_can_be_the_root() -> None:
    leaf, intermediate = BELOW.issue().der
    Anchor(intermediate).validate((leaf,))


@pytest.mark.parametrize(
    ("chain", "unsigned", "reason"),
    [
        (OTHER.issue().der, 0, "unable to get local issuer certificate"),
        (OTHER.intermediate().issue().der, 1, "unable to get local issuer certificate"),
        ((OTHER.der,), 0, "self-signed certificate"),
        (CA.issue(forged=True).der, 0, "certificate signature failure"),
        (CA.intermediate(forged=True).issue().der, 1, "certificate signature failure"),
        (CA.intermediate(ca=False).issue().der, None, "invalid CA certificate"),
        (CA.intermediate(path_length=0).intermediate().issue().der, None, "path length"),
        (CA.issue(unknown_critical=True).der, None, "unhandled critical extension"),
        ((b"garbage",), None, "can't read"),
    ],
)
def test_no_path_is_told_in_openssls_words(
    chain: tuple[bytes, ...], unsigned: int | None, reason: str
) -> None:
    with pytest.raises(PathError, match=reason) as caught:
        Anchor(CA.der).validate(chain)
    assert caught.value.unsigned == unsigned
    assert lib.ERR_peek_error() == 0


def test_a_root_that_can_not_be_read_is_told() -> None:
    with pytest.raises(PathError, match="can't read"):
        Anchor(b"garbage")


def test_threads_share_a_root() -> None:
    anchor, told = Anchor(CA.der), []
    good, bad = (CA.issue().der, BELOW.issue().der), CA.issue(forged=True).der

    def look() -> None:
        for _ in range(50):
            for path in good:
                anchor.validate(path)
            with pytest.raises(PathError):
                anchor.validate(bad)
        told.append(True)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [True] * 4
