"""`uproxy explain`, against admin listeners that answer."""

from __future__ import annotations

import pytest

from tests.helpers.admin import RunningAdmin, orders_facts
from uproxy.cli import main
from uproxy.cli.dry_run import REFUSED

SCANNER = "spiffe://example.org/ns/test/sa/scanner"


def test_one_address_and_a_caller_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with RunningAdmin(orders_facts()) as admin:
        address = str(admin.listen().address)
        assert main(["explain", address, "--as", SCANNER]) == REFUSED
        out = capsys.readouterr().out
        assert "denied: no allow rule matches" in out
        assert "name: scanner-to-api" in out
        assert main(["explain", address, "--as", f"{SCANNER}2"]) == 0


def test_a_suggested_rule_has_a_name_that_no_other_has(capsys: pytest.CaptureFixture[str]) -> None:
    facts = orders_facts()
    facts.dump = {"settings": {"authorization": [{"name": "scanner-to-api"}]}}
    with RunningAdmin(facts) as admin, RunningAdmin(facts) as other:
        address, another = str(admin.listen().address), str(other.listen().address)
        for words in ((address, "--as", SCANNER), (address, another)):
            main(["explain", *words])
            assert "name: scanner-to-api," not in capsys.readouterr().out
        assert main(["explain", address, "--as", SCANNER]) == REFUSED
        assert "name: scanner-to-api-2" in capsys.readouterr().out


def test_what_is_no_configuration_is_no_answer_of_a_uproxy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = orders_facts()
    facts.dump = {"settings": {"authorization": [{}]}}
    with RunningAdmin(facts) as admin:
        assert main(["explain", str(admin.listen().address), "--as", SCANNER]) == 1
    assert "answers, but not as uProxy does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("127.0.0.1:1",), "give two addresses"),
        (("127.0.0.1:1", "127.0.0.1:2", "--as", SCANNER), "give two addresses"),
        (("127.0.0.1:1", "--as", "scanner"), "--as 'scanner': "),
        (("here", "--as", SCANNER), "ADDR 'here' is no host:port"),
        (("127.0.0.1:1", "127.0.0.1:1"), "both are 127.0.0.1:1"),
    ],
)
def test_wrong_usage_is_said_so(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *words]) == 2
    assert complaint in capsys.readouterr().err
