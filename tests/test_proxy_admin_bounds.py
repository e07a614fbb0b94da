"""What an admin listener may have open is bounded, and known to the budget of descriptors."""

from __future__ import annotations

from uproxy.proxy.admin.bounds import ACCEPTS, Bounds


def test_who_is_accepted_before_somebody_is_cut_counts_too() -> None:
    assert Bounds(clients=10).descriptors == 1 + 10 + 2 * ACCEPTS
