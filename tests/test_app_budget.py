"""Connections get what doors, threads and admin clients leave."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest

from tests.helpers.world import settings
from uproxy import descriptors
from uproxy.app.budget import budget_of
from uproxy.config.settings import AdminSettings, DestinationSettings
from uproxy.lookups import MOST_THREADS
from uproxy.model import Limits, TcpAddress, Transport
from uproxy.proxy.admin.bounds import DEFAULT_BOUNDS


@pytest.fixture(autouse=True)
def thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "raise_limit", lambda: 1024)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


def test_each_admin_listener_takes_what_its_clients_may_need() -> None:
    off = AdminSettings(None, None, None)
    wanted = replace(settings(), limits=Limits(connections=1000), admin=off)
    alone = budget_of(wanted).connections
    with_ready = replace(wanted, admin=replace(off, ready=AdminSettings().ready))
    assert alone - budget_of(with_ready).connections == (DEFAULT_BOUNDS.descriptors + 1) // 2


def test_threads_count() -> None:
    wanted = replace(settings(), limits=Limits(connections=1000), workers=4)
    assert budget_of(wanted).connections - budget_of(replace(wanted, workers=64)).connections == 60


def test_names_that_must_be_looked_up_count_as_far_as_there_are_threads_for_them() -> None:
    limits = Limits(connections=1000)
    alone = replace(settings(), limits=limits)
    for names, taken in ((10, 10), (500, MOST_THREADS)):
        addresses = tuple(TcpAddress(f"h{n}.internal", 1) for n in range(names))
        to = DestinationSettings("db", addresses, Transport.PLAINTEXT)
        named = replace(alone, destinations={"db": to})
        assert budget_of(alone).connections - budget_of(named).connections == taken // 2
