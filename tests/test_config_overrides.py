"""Environment, options and variables: who wins, and what is said of their mistakes."""

from __future__ import annotations

import pytest

from tests.helpers.config_documents import FILES, loaded, mistakes, only_mistake
from uproxy.model import TcpAddress, UnixAddress

DOORS = (
    FILES
    + """
inbound:
  - {listen: 0.0.0.0:8443, transport: mtls, to: 127.0.0.1:8080}
outbound:
  - {listen: 127.0.0.1:5432, to: orders-db}
destinations:
  orders-db: {addresses: [127.0.0.1:5433], transport: plaintext}
timeouts: {idle: 1m}
"""
)


def test_options_win_over_the_environment_over_the_file_over_defaults() -> None:
    environ = {"UPROXY__TIMEOUTS__IDLE": "2m"}
    assert loaded(FILES).timeouts.idle == 3600
    assert loaded(DOORS).timeouts.idle == 60
    assert loaded(DOORS, environ=environ).timeouts.idle == 120
    options = ["timeouts.idle=3m", "timeouts.idle=4m"]
    assert loaded(DOORS, environ=environ, overrides=options).timeouts.idle == 240
    assert loaded(DOORS, environ=environ, overrides=options[:1]).timeouts.idle == 180


def test_the_environment_reaches_lists_and_names_with_hyphens() -> None:
    environ = {
        "UPROXY__INBOUND__0__TO": "127.0.0.1:9090",
        "UPROXY__DESTINATIONS__ORDERS_DB__IDLE": "0",
        "UPROXY__IDENTITY__REVOCATION_GRACE": "1s",
    }
    settings = loaded(DOORS, environ=environ)
    assert settings.inbound[0].to == TcpAddress("127.0.0.1", 9090)
    assert settings.destinations["orders-db"].idle == 0
    assert settings.identity.revocation_grace == 1


def test_what_kubernetes_injects_for_a_service_named_uproxy_is_ignored() -> None:
    environ = {"UPROXY_PORT": "tcp://10.0.0.1:80", "UPROXY_SERVICE_HOST": "10.0.0.1"}
    assert loaded(FILES, environ=environ) == loaded(FILES)


def test_an_unknown_name_in_the_environment_is_a_mistake_with_a_hint() -> None:
    mistake = only_mistake(FILES, environ={"UPROXY__TIMEOUTS__IDLLE": "1h"})
    assert mistake.path == "timeouts.idlle"
    assert mistake.nearest == "idle"
    assert "UPROXY__TIMEOUTS__IDLLE" in mistake.reason
    assert mistake.line is None


@pytest.mark.parametrize("name", ["UPROXY__", "UPROXY____IDLE", "UPROXY__TIMEOUTS__"])
def test_a_name_without_a_setting_is_a_mistake(name: str) -> None:
    assert only_mistake(FILES, environ={name: "1"}).path == name


def test_values_have_the_type_of_their_field() -> None:
    options = ["limits.connections=5", "outbound[0].listen=unix:///a", "outbound[0].mode=0600"]
    settings = loaded(DOORS, overrides=[*options, "name=12", "outbound[0].expose=true"])
    assert settings.limits.connections == 5
    assert settings.outbound[0].listen == UnixAddress("/a")
    assert settings.outbound[0].mode == 0o600
    assert settings.name == "12"
    assert settings.outbound[0].expose


def test_values_in_brackets_braces_or_quotes_are_yaml() -> None:
    options = ["tls.groups=[X25519, P-256]", "timeouts={idle: 9s, drain: 9s}", 'name="a b"']
    settings = loaded(DOORS, overrides=options)
    assert settings.tls.groups == ("X25519", "P-256")
    assert (settings.timeouts.idle, settings.timeouts.connect) == (9, 5)
    assert settings.name == "a b"


def test_an_ipv6_address_is_no_list() -> None:
    settings = loaded(DOORS, overrides=["inbound[0].listen=[::1]:80"])
    assert settings.inbound[0].listen == TcpAddress("::1", 80)


def test_null_switches_off() -> None:
    settings = loaded(FILES, environ={"UPROXY__ADMIN__READY": "null"}, overrides=["admin.listen=~"])
    assert settings.admin.ready is None
    assert settings.admin.listen is None
    assert settings.admin.metrics is not None


def test_quoted_keys_may_hold_dots() -> None:
    settings = loaded(FILES, overrides=['identity.files.bundles["partner.test"]=p.pem'])
    assert settings.identity.files is not None
    assert settings.identity.files.bundles["partner.test"] == "/etc/uproxy/p.pem"


@pytest.mark.parametrize("option", ["", "a", "=b", "a b=c", "[0]", "a..b=c"])
def test_an_option_that_is_no_path_and_value_says_how_it_looks(option: str) -> None:
    mistake = only_mistake(FILES, overrides=[option])
    assert mistake.path == "--set"
    assert "path=value" in mistake.reason


def test_a_list_is_not_lengthened() -> None:
    mistake = only_mistake(DOORS, overrides=["inbound[1].to=127.0.0.1:1"])
    assert "inbound has 1" in mistake.reason
    assert "--set" in mistake.reason


def test_an_item_of_a_list_is_named_by_its_number() -> None:
    for overrides, environ, example in (
        (["inbound.to=127.0.0.1:1"], {}, "as in inbound[0].to (from --set inbound.to="),
        (["inbound.0.to=127.0.0.1:1"], {}, "as in inbound[0] (from --set inbound.0.to="),
        ([], {"UPROXY__INBOUND__TO": "127.0.0.1:1"}, "as in inbound[0].to (from UPROXY__INBOUND"),
    ):
        (mistake,) = mistakes(DOORS, overrides=overrides, environ=environ)
        assert f"inbound is a list: say which of its items, {example}" in mistake.reason


def test_broken_yaml_in_a_value_is_one_mistake_of_that_option() -> None:
    found = mistakes(FILES, overrides=["tls.groups=[a: b: c]"])
    assert "is not YAML" in found[0].reason
    assert found[0].line is None


def test_a_value_below_a_leaf_is_a_mistake_about_the_leaf() -> None:
    mistake = only_mistake(FILES, environ={"UPROXY__NAME__X": "1"})
    assert "must be text, not a mapping" in mistake.reason


def test_variables_are_replaced_after_parsing() -> None:
    environ = {"POD_IP": "10.1.2.3", "MAX": "7", "NAME": "a: [b]\tc: {d"}
    settings = loaded(
        FILES
        + "inbound: [{name: '$$x${POD_IP}$y$', listen: '${POD_IP}:80', transport: mtls,"
        + " to: unix:///a}]\nlimits: {connections: '${MAX}'}",
        environ=environ,
    )
    assert settings.inbound[0].name == "$x10.1.2.3$y$"
    assert settings.inbound[0].listen == TcpAddress("10.1.2.3", 80)
    assert settings.limits.connections == 7


def test_a_variable_can_not_add_structure() -> None:
    text = FILES + "destinations: {d: {addresses: ['${A}'], transport: plaintext}}"
    mistake = only_mistake(text, environ={"A": "127.0.0.1:80, 10.0.0.1:80"})
    assert mistake.path == "destinations.d.addresses[0]"
    assert mistake.value == "${A}"
    assert "127.0.0.1:80, 10.0.0.1:80" in mistake.reason


def test_an_empty_variable_is_not_null() -> None:
    assert only_mistake(FILES + "admin: {ready: '${E}'}", environ={"E": ""}).value == "${E}"


def test_a_variable_with_a_line_break_is_a_mistake() -> None:
    assert "U+000A" in only_mistake(FILES + "name: ${N}", environ={"N": "a\nb"}).reason


def test_an_undefined_variable_is_a_mistake_with_its_place() -> None:
    mistake = only_mistake(FILES + "admin:\n  ready: ${NOPE}:80\n")
    assert "NOPE" in mistake.reason
    assert (mistake.path, mistake.line, mistake.column) == ("admin.ready", 3, 10)


@pytest.mark.parametrize("text", ["${", "${}", "${1}", "${a b}", "${A"])
def test_a_variable_without_a_name_is_a_mistake(text: str) -> None:
    assert "$${" in mistakes(FILES + f"name: '{text}'", environ={"A": "a"})[0].reason


def test_a_long_name_without_a_value_is_refused_at_once() -> None:
    (mistake,) = mistakes(FILES, overrides=["i" * 5000 + "("])
    assert "must be path=value" in mistake.reason
