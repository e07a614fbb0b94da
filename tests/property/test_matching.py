"""Matching finds what looking at every destination in turn would find."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from uproxy.config.settings import DestinationSettings, MatchSettings, Network
from uproxy.matching import Matching
from uproxy.model import Transport

_PORTS = st.sampled_from([None, 80, 443, 8080])
_BITS = st.integers(0, 255)
_V4, _V6 = int(IPv4Address("10.0.0.0")), int(IPv6Address("fd00::"))


def _v4(bits: int, length: int) -> IPv4Network:
    return IPv4Network((_V4 | bits, length), strict=False)


def _v6(bits: int, length: int) -> IPv6Network:
    return IPv6Network((_V6 | bits, length), strict=False)


_NETWORKS: st.SearchStrategy[Network] = st.one_of(
    st.builds(_v4, _BITS, st.sampled_from([0, 8, 24, 25, 30, 31, 32])),
    st.builds(_v6, _BITS, st.sampled_from([0, 8, 120, 121, 126, 127, 128])),
)
_IPS: st.SearchStrategy[IPv4Address | IPv6Address] = st.one_of(
    _BITS.map(lambda bits: IPv4Address(_V4 | bits)),
    _BITS.map(lambda bits: IPv6Address(_V6 | bits)),
    st.ip_addresses(),
)


def _looked_at_in_turn(
    pairs: list[tuple[Network, int | None]], ip: IPv4Address | IPv6Address, port: int
) -> str | None:
    fits = [
        (network.prefixlen, wanted is not None, f"{network} {wanted}")
        for network, wanted in pairs
        if ip in network and wanted in (None, port)
    ]
    return max(fits)[2] if fits else None


@given(
    st.lists(st.tuples(_NETWORKS, _PORTS), unique=True, max_size=12),
    _IPS,
    st.sampled_from([80, 443, 22]),
)
def test_it_finds_what_looking_at_each_in_turn_finds(
    pairs: list[tuple[Network, int | None]], ip: IPv4Address | IPv6Address, port: int
) -> None:
    matching = Matching.of(
        DestinationSettings(
            f"{network} {wanted}",
            (),
            Transport.PLAINTEXT,
            match=MatchSettings((network,), () if wanted is None else (wanted,)),
        )
        for network, wanted in pairs
    )
    assert matching.find(ip, port) == _looked_at_in_turn(pairs, ip, port)
