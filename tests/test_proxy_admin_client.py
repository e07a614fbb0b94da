"""Who counts as one client of the admin server; the rest is in `test_proxy_admin_server.py`."""

from __future__ import annotations

import pytest

from uproxy.model import TcpAddress, UnixAddress
from uproxy.proxy.admin.client import source_of


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_a_source_is_an_ipv4_address_or_a_64_of_ipv6(host: str, other: str, same: bool) -> None:
    sources = [source_of(TcpAddress(each, 1)) for each in (host, other)]
    assert (sources[0] == sources[1]) == same
    assert source_of(UnixAddress("/run/a")) is None
