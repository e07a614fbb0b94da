"""Ctrl-C, SIGTERM and a closed terminal, at every step of `uproxy demo`."""

from __future__ import annotations

import http.client
import os
import re
import signal

import pytest

from tests.helpers.demos import Demo

STEPS = [
    "1  An authority",
    "2  Two workloads",
    "✓ frontend is",
    "3  Traffic",
    "4  The wire",
    "5  Callers that orders must refuse",
    "6  Identities",
    "7  An L7 policy",
    "✓ an Envoy is",
    "out of the path",
]


def test_it_stays_until_ctrl_c_and_its_status_pages_answer() -> None:
    with Demo() as demo:
        demo.wait_for("Ctrl-C ends it")
        ports = re.findall(r"http://127\.0\.0\.1:(\d+)/", demo.output)
        assert len(ports) == 2
        for port in ports:
            page = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
            page.request("GET", "/connections")
            assert b"spiffe://example.org/" in page.getresponse().read()
            page.close()
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 0
        assert "✓ ended" in demo.output
        assert demo.leftovers() == []


@pytest.mark.parametrize("step", STEPS)
def test_a_signal_in_the_middle_ends_it_in_order(step: str) -> None:
    number = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP][STEPS.index(step) % 3]
    with Demo() as demo:
        demo.wait_for(step)
        demo.process.send_signal(number)
        # it may have come to its end meanwhile: then there is nothing to interrupt
        assert demo.wait() in (128 + number, 0)
        assert "Traceback" not in demo.output
        assert demo.leftovers() == []


def test_a_signal_while_postgresql_is_being_made_ends_it_in_order() -> None:
    with Demo("--apps", "real") as demo:
        demo.wait_for("2  Two workloads")
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 128 + signal.SIGINT
        assert "✓ PostgreSQL" not in demo.output
        assert demo.leftovers() == []


def test_an_impatient_second_signal_does_not_hurry_it_into_a_mess() -> None:
    with Demo() as demo:
        demo.wait_for("✓ orders is")
        demo.process.send_signal(signal.SIGINT)
        demo.process.send_signal(signal.SIGTERM)
        demo.wait()
        assert demo.leftovers() == []


@pytest.mark.parametrize("apps", ["echo", "real"])
def test_a_uproxy_that_is_killed_ends_it_with_the_reason(apps: str) -> None:
    with Demo("--apps", apps) as demo:
        demo.wait_for("Ctrl-C ends it")
        (pid,) = demo.pids("orders.yaml")
        os.kill(pid, signal.SIGKILL)
        assert demo.wait() == 1
        assert "uproxy: error: " in demo.output.splitlines()[-1]
        assert "Traceback" not in demo.output
        assert demo.leftovers() == []
