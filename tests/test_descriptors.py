"""How many connections fit into the descriptors of this process."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from uproxy import descriptors
from uproxy.errors import UproxyError


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from uproxy import descriptors;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512));"
        "print(descriptors.raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["512", "512"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 64


def test_connections_that_fit_are_not_clamped() -> None:
    needed = 1000 * descriptors.DESCRIPTORS_PER_CONNECTION + 64
    budget = descriptors.budget_for(1000, needed, 64)
    assert (budget.connections, budget.note) == (1000, None)


def test_connections_that_do_not_fit_are_clamped_with_a_note() -> None:
    budget = descriptors.budget_for(20_000, 1024, 64)
    assert budget.connections == 480
    assert budget.note == (
        "limits.connections = 20000 is clamped to 480 by the descriptor limit of 1024: "
        "raise LimitNOFILE (ulimit -n) to 40064"
    )


def test_a_limit_too_low_for_one_connection_is_an_error() -> None:
    with pytest.raises(UproxyError, match=r"descriptor limit of 64 is too low: raise LimitNOFILE"):
        descriptors.budget_for(100, 64, 64)


def test_what_connections_leave_to_others_grows_with_doors_threads_and_admin_clients() -> None:
    least = descriptors.reserved_for(doors=0, threads=0, admin=0, lookups=0)
    assert descriptors.reserved_for(doors=100, threads=0, admin=0, lookups=0) >= least + 200
    assert descriptors.reserved_for(doors=0, threads=64, admin=0, lookups=0) >= least + 128
    assert descriptors.reserved_for(doors=0, threads=0, admin=67, lookups=0) == least + 67
    assert descriptors.reserved_for(doors=0, threads=0, admin=0, lookups=9) == least + 9
