"""Paths from a leaf to an anchor: found, validated, and told by their positions."""

from __future__ import annotations

import threading

import pytest

from uproxy.lab.pki import Authority
from uproxy.libssl.binding import lib
from uproxy.libssl.paths import AnchorStore, PathError

CA = Authority("example.org")
OTHER = Authority("other.test")
BELOW = CA.intermediate()


def test_a_path_is_told_by_the_positions_of_its_certificates() -> None:
    store = AnchorStore([OTHER.der, CA.der])
    leaf, intermediate = BELOW.issue().der
    assert store.find_path(CA.issue().der) == ((0,), 1)
    assert store.find_path(OTHER.issue().der) == ((0,), 0)
    assert store.find_path((leaf, OTHER.der, CA.der, intermediate)) == ((0, 3), 1)


def test_an_intermediate_can_be_the_anchor() -> None:
    intermediate = BELOW.issue().der[1]
    assert AnchorStore([intermediate]).find_path(BELOW.issue().der) == ((0,), 0)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (OTHER.issue().der, "unable to get local issuer certificate"),
        (CA.issue(forged=True).der, "certificate signature failure"),
        (CA.intermediate(ca=False).issue().der, "invalid CA certificate"),
        (CA.intermediate(path_length=0).intermediate().issue().der, "path length"),
        (CA.issue(unknown_critical=True).der, "unhandled critical extension"),
        ((b"garbage",), "can't read"),
    ],
)
def test_no_path_is_told_in_openssls_words(chain: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(PathError, match=reason):
        AnchorStore([CA.der]).find_path(chain)
    assert lib.ERR_peek_error() == 0


def test_a_root_that_can_not_be_read_is_told() -> None:
    with pytest.raises(PathError, match="can't read"):
        AnchorStore([CA.der, b"garbage"])


def test_no_roots_lead_nowhere() -> None:
    with pytest.raises(PathError):
        AnchorStore([]).find_path(CA.issue().der)


def test_threads_share_a_store() -> None:
    store, found = AnchorStore([CA.der, OTHER.der]), []
    peers = [CA.issue().der, OTHER.issue().der, BELOW.issue().der]
    wanted = [store.find_path(peer) for peer in peers]

    def look() -> None:
        found.append(
            all(
                store.find_path(p) == w
                for _ in range(50)
                for p, w in zip(peers, wanted, strict=True)
            )
        )

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
