"""Environment variables that were meant to override a setting, and don't."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, only_mistake
from uproxy.config.environment import misnamed


def wanted(*names: str, text: str = "") -> dict[str, str]:
    """Return, by variable, which name the warning says to write."""
    found = misnamed(dict.fromkeys(names, "1"), text)
    return {each.path: each.reason.rpartition(" ")[2] for each in found}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("UPROXY_TIMEOUTS_IDLE", "UPROXY__TIMEOUTS__IDLE"),
        ("UPROXY_TIMEOUTS__IDLE", "UPROXY__TIMEOUTS__IDLE"),
        ("UPROXY_LOG_LEVEL", "UPROXY__LOG__LEVEL"),
        ("UPROXY_ENGINE", "UPROXY__ENGINE"),
        ("UPROXY_LIMITS_PER_SOURCE_CONNECTIONS", "UPROXY__LIMITS__PER_SOURCE_CONNECTIONS"),
        ("UPROXY_ON_POLICY_CHANGE", "UPROXY__ON_POLICY_CHANGE"),
        ("UPROXY_INBOUND_0_TO", "UPROXY__INBOUND__0__TO"),
        ("UPROXY_AUTHORIZATION_1_TO_PORTS_0", "UPROXY__AUTHORIZATION__1__TO__PORTS__0"),
        ("UPROXY_DESTINATIONS_ORDERS_DB_IDLE", "UPROXY__DESTINATIONS__ORDERS_DB__IDLE"),
        ("UPROXY_ADMIN_LISTEN", "UPROXY__ADMIN__LISTEN"),
        ("uproxy__log__level", "UPROXY__LOG__LEVEL"),
        ("Uproxy_Log_Level", "UPROXY__LOG__LEVEL"),
        ("UPROXY_IDENTITY_FILES_SVID", "UPROXY__IDENTITY__FILES__SVID"),
    ],
)  # fmt: skip
def test_the_right_name_is_said(name: str, right: str) -> None:
    assert wanted(name) == {name: right}


def test_nothing_is_said_of_what_kubernetes_defines_for_a_service_named_uproxy() -> None:
    assert wanted(
        "UPROXY_SERVICE_HOST", "UPROXY_SERVICE_PORT", "UPROXY_SERVICE_PORT_METRICS", "UPROXY_PORT",
        "UPROXY_PORT_15020_TCP", "UPROXY_PORT_15020_TCP_ADDR", "UPROXY_NAME_PORT",
        "UPROXY_LOG_LEVEL_SERVICE_HOST", "UPROXY", "UPROXY_", "UPROXYING_LOG_LEVEL",
    ) == {}  # fmt: skip


def test_nothing_is_said_of_right_names_and_of_variables_with_another_use() -> None:
    assert wanted("UPROXY__LOG__LEVEL") == {}
    assert wanted("UPROXY_NAME", text="name: ${UPROXY_NAME}\n") == {}
    assert wanted("UPROXY_NAME", text="name: $UPROXY_NAME\n") != {}


def test_one_underscore_further_on_is_a_mistake_with_the_way_out() -> None:
    mistake = only_mistake(FILES, environ={"UPROXY__TIMEOUTS_IDLE": "1h"})
    assert "two underscores stand between the parts of a name: TIMEOUTS__IDLE" in mistake.reason
    nested = only_mistake(FILES, environ={"UPROXY__IDENTITY__FILES_SVID": "x"})
    assert nested.reason.startswith("no such key; two underscores")
    assert "FILES__SVID" in nested.reason
    assert "underscores" not in only_mistake(FILES + "timeouts_idle: 1h\n").reason
