"""Every configuration can be written down, and means the same when it is read."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.config_documents import as_json, as_yaml, loaded, plain
from uproxy.config import Settings, changes, json_schema, warnings
from uproxy.config.settings import (
    AdminSettings,
    DestinationSettings,
    FilesIdentity,
    IdentitySettings,
    InboundSettings,
    InboundTrustSettings,
    L7EndpointSettings,
    L7HealthSettings,
    L7ProxySettings,
    LogSettings,
    MatchSettings,
    OutboundSettings,
    RuleFrom,
    RuleSettings,
    RuleTo,
)
from uproxy.model import (
    Host,
    Limits,
    SystemdAddress,
    TcpAddress,
    Timeouts,
    TlsSettings,
    Transport,
    TunnelSettings,
    UnixAddress,
)

_VALIDATOR = jsonschema.Draft202012Validator(json_schema())
_LABELS = st.text(
    st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20
).filter(lambda text: text.isprintable() and text == text.strip())
_WORDS = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
_IDS = st.builds("spiffe://example.org/ns/{}/sa/{}".format, _WORDS, _WORDS | st.just("*"))
_PORTS = st.integers(1, 65_535)
_HOSTS = st.sampled_from(["127.0.0.1", "::1", "10.1.2.3", "fd00::7", "db.internal"])
_PATHS = st.from_regex(r"/[a-z$ é]{1,20}/[a-z]{1,9}", fullmatch=True)
_TARGETS = st.builds(TcpAddress, _HOSTS, _PORTS) | st.builds(UnixAddress, _PATHS)
_LOOPBACK = ip_address("127.0.0.1")
_OWN_IPS = st.sampled_from([ip_address(each) for each in ("10.0.0.7", "fd00::7", "::1")])
_SECONDS = st.integers(0, 86_400_000).map(lambda milliseconds: milliseconds / 1000)
_NETWORKS = st.sampled_from([ip_network(each) for each in ("10.0.0.0/8", "::/0", "192.0.2.1")])
_KEEP_OR_CLOSE = st.sampled_from(["keep", "close"])
_ALPN = st.lists(st.sampled_from(["h2", "http/1.1", "postgresql"]), unique=True).map(tuple)


def _some(item: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(item, unique=True, max_size=3).map(tuple)


def _identities() -> st.SearchStrategy[IdentitySettings]:
    api = st.builds(UnixAddress, _PATHS) | st.builds(TcpAddress, st.just("127.0.0.1"), _PORTS)
    files = st.builds(
        FilesIdentity,
        svid=_PATHS,
        key=_PATHS,
        bundles=st.dictionaries(
            st.sampled_from(["example.org", "partner.test"]), _PATHS, min_size=1
        ).map(MappingProxyType),
        crls=_some(_PATHS),
    )
    common = {
        "on_expiry": _KEEP_OR_CLOSE,
        "on_distrust": _KEEP_OR_CLOSE,
        "revocation_grace": _SECONDS,
    }
    exact = st.none() | st.just("spiffe://example.org/ns/web/sa/a")
    return (
        st.builds(IdentitySettings, workload_api=api, spiffe_id=exact, **common)
        | st.builds(IdentitySettings, workload_api=api, hint=_LABELS, **common)
        | st.builds(IdentitySettings, files=files, spiffe_id=exact, **common)
    )


@st.composite
def _captured_inbound(draw: Callable[..., Any], port: int) -> InboundSettings:
    spoken = st.sampled_from([Transport.MTLS, Transport.PLAINTEXT, Transport.PASSTHROUGH])
    known = draw(st.dictionaries(st.integers(8000, 8099), spoken, min_size=1, max_size=4))
    tls = [each for each, how in known.items() if how is Transport.MTLS]
    to = draw(st.none() | st.just(Host("127.0.0.1")))
    return InboundSettings(
        name=draw(_LABELS) + str(port),
        listen=TcpAddress("::", port),
        transport=Transport.MTLS if tls else Transport.PLAINTEXT,
        to=to,
        preserve_source=to is None and draw(st.booleans()),
        ports=MappingProxyType(known),
        captured=True,
        migrate=tuple(tls[:1]) if draw(st.booleans()) else (),
    )


@st.composite
def _inbound(draw: Callable[..., Any], port: int) -> InboundSettings:
    """`port` is this door's alone."""
    transport = draw(st.sampled_from(Transport))
    if transport is Transport.PASSTHROUGH:
        captured: InboundSettings = draw(_captured_inbound(port))
        return captured
    unix = draw(st.booleans())
    listen = UnixAddress(f"/in/{port}") if unix else TcpAddress("0.0.0.0", port)
    if transport is Transport.HBONE:
        return InboundSettings(
            name=draw(_LABELS) + str(port),
            listen=listen,
            transport=transport,
            to=draw(st.none() | st.sampled_from(["127.0.0.1", "::1", "app"]).map(Host)),
            ports=draw(st.just("all") | st.just((80,)) | st.just((5432, 81))),
            addresses=draw(_some(_OWN_IPS)) or ((_LOOPBACK,) if unix else ()),
        )
    return InboundSettings(
        name=draw(_LABELS) + str(port),
        listen=listen,
        transport=transport,
        to=draw(st.just(TcpAddress("127.0.0.1", 80)) | st.builds(UnixAddress, _PATHS)),
        alpn=draw(_ALPN) if transport is Transport.MTLS else (),
        proxy_protocol=draw(st.sampled_from([None, "v2"])),
        mode=draw(st.none() | st.integers(0, 0o777)) if unix else None,
    )


@st.composite
def _outbound(draw: Callable[..., Any], port: int, names: list[str]) -> OutboundSettings:
    to = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["unix", "systemd", "loopback", "exposed", "captured"]))
    if kind == "captured":
        listen = draw(st.sampled_from([TcpAddress("::", port), SystemdAddress(f"socket{port}")]))
        return OutboundSettings(listen, expose=draw(st.booleans()), captured=True)
    if kind == "unix":
        mode = draw(st.none() | st.integers(0, 0o777))
        owner = draw(st.sampled_from([None, "postgres", "a:b", "1000"]))
        return OutboundSettings(UnixAddress(f"/out/{port}"), to, mode=mode, owner=owner)
    if kind == "systemd":
        return OutboundSettings(SystemdAddress(f"socket{port}"), to, draw(st.booleans()))
    host = "127.0.0.1" if kind == "loopback" else "::"
    return OutboundSettings(TcpAddress(host, port), to, expose=kind == "exposed")


def _endpoints() -> st.SearchStrategy[tuple[L7EndpointSettings, ...]]:
    endpoint = st.builds(
        L7EndpointSettings, st.builds(TcpAddress, _HOSTS, _PORTS), draining=st.booleans()
    )
    return st.lists(
        endpoint, min_size=1, max_size=3, unique_by=lambda each: each.address
    ).map(tuple)  # fmt: skip


def _l7_proxy(name: str) -> st.SearchStrategy[L7ProxySettings]:
    paths = st.sampled_from(["/ready", "/health?deep=1"])
    seconds = st.integers(100, 86_400_000).map(lambda milliseconds: milliseconds / 1000)
    return st.builds(
        L7ProxySettings,
        name=st.just(name),
        addresses=_endpoints(),
        identities=st.lists(_IDS, min_size=1, max_size=2, unique=True).map(tuple),
        when_unavailable=st.sampled_from(["refuse", "bypass"]),
        health=st.none() | st.builds(L7HealthSettings, _PORTS, paths, seconds),
    )


def _trusted(name: str) -> st.SearchStrategy[InboundTrustSettings]:
    return st.builds(
        InboundTrustSettings,
        name=st.just(name),
        identities=st.just((f"spiffe://example.org/l7/{name}",)),
        speaks_for=st.lists(_IDS, min_size=1, max_size=2, unique=True).map(tuple),
        require_proof=st.booleans(),
    )


@st.composite
def _destination(
    draw: Callable[..., Any], name: str, number: int, proxies: list[str]
) -> DestinationSettings:  # fmt: skip
    transport = draw(st.sampled_from([each for each in Transport if each != "passthrough"]))
    mtls, hbone = transport is Transport.MTLS, transport is Transport.HBONE
    targets = st.builds(TcpAddress, _HOSTS, _PORTS) if hbone else _TARGETS
    via = draw(st.none() | st.sampled_from(proxies)) if hbone and proxies else None
    identities = _IDS if via is None else _IDS.filter(lambda text: "*" not in text)
    prefix = draw(st.none() | st.integers(17, 32))
    # each destination has a network of its own, so that no two match equally
    networks = (ip_network((f"10.{number}.128.0", prefix)),) if prefix else ()
    ports = draw(_some(_PORTS))
    return DestinationSettings(
        name=name,
        match=MatchSettings(networks, ports) if networks else None,
        addresses=draw(st.lists(targets, min_size=1, max_size=3, unique=True).map(tuple)),
        transport=transport,
        via=via,
        identities=draw(st.lists(identities, min_size=1, max_size=2, unique=True).map(tuple))
        if mtls or hbone
        else (),
        hbone_port=draw(st.none() | _PORTS) if hbone else None,
        alpn=draw(_ALPN) if mtls else (),
        idle=draw(st.none() | _SECONDS),
    )


def _callers(ways: list[str]) -> st.SearchStrategy[RuleFrom]:
    values = {
        "identities": _IDS,
        "trust_domains": st.sampled_from(["example.org", "partner.test"]),
        "namespaces": _WORDS,
        "service_accounts": _WORDS,
        "cidrs": _NETWORKS,
    }
    lists = {name: _some(value) for name, value in values.items()}
    nots = {f"not_{name}": _some(value) for name, value in values.items()}
    known = ["direct", *ways]
    some = [
        st.lists(st.sampled_from(known), min_size=least, max_size=len(known), unique=True)
        for least in (1, 0)
    ]
    via, not_via = (each.map(tuple) for each in some)
    named = st.builds(RuleFrom, via=via, not_via=not_via, **lists, **nots)
    strangers = st.builds(RuleFrom, unauthenticated=st.just(True), cidrs=lists["cidrs"])
    return named | strangers | st.just(RuleFrom(any=True))


@st.composite
def _rule(
    draw: Callable[..., Any], index: int, doors: list[str], ways: list[str]
) -> RuleSettings:  # fmt: skip
    some_doors = _some(st.sampled_from(doors)) if doors else st.just(())
    target = st.builds(
        RuleTo,
        ports=_some(_PORTS),
        addresses=_some(_NETWORKS),
        inbound=some_doors,
        not_ports=_some(_PORTS),
        not_addresses=_some(_NETWORKS),
        not_inbound=some_doors,
    )
    return RuleSettings(
        name=draw(_LABELS) + str(index),
        action=draw(st.sampled_from(["allow", "deny"])),
        from_=draw(_callers(ways)),
        to=draw(target),
        mode=draw(st.sampled_from(["enforce", "shadow"])),
    )


@st.composite
def _tls(draw: Callable[..., Any]) -> TlsSettings:
    version = draw(st.sampled_from(["1.2", "1.3"]))
    old = ("ECDHE-RSA-AES128-GCM-SHA256",) if version == "1.2" else ()
    groups = draw(st.permutations(["X25519MLKEM768", "X25519", "P-384"]))
    return TlsSettings(version, tuple(groups), ("TLS_AES_256_GCM_SHA384", *old))


@st.composite
def _tunnels(draw: Callable[..., Any]) -> TunnelSettings:
    streams, window = st.integers(1, 10**9), draw(st.integers(64, 1024)) * 1024
    whole = window + draw(st.integers(0, 1024)) * 1024
    times = draw(_SECONDS), draw(_SECONDS)
    return TunnelSettings(draw(streams), draw(streams), window, whole, *times)


@st.composite
def _settings(draw: Callable[..., Any]) -> Settings:
    ports = iter(range(20_000, 20_100))
    names = draw(st.lists(_LABELS, min_size=1, max_size=3, unique=True))
    inbound = tuple(draw(_inbound(next(ports))) for _ in range(draw(st.integers(0, 2))))
    outbound = tuple(draw(_outbound(next(ports), names)) for _ in range(draw(st.integers(0, 2))))
    doors = [door.name for door in inbound]
    delay = draw(st.integers(0, 20_000)) / 1000
    proxies = draw(st.lists(_WORDS, max_size=2, unique=True))
    ways = draw(st.lists(_WORDS, max_size=2, unique=True))
    off_or_unix = st.none() | st.just(UnixAddress("/run/admin"))
    return Settings(
        identity=draw(_identities()),
        name=draw(_LABELS),
        inbound=inbound,
        outbound=outbound,
        destinations=MappingProxyType(
            {name: draw(_destination(name, number, proxies)) for number, name in enumerate(names)}
        ),
        l7_proxies=MappingProxyType({name: draw(_l7_proxy(name)) for name in proxies}),
        inbound_trust=MappingProxyType({name: draw(_trusted(name)) for name in ways}),
        authorization=tuple(draw(_rule(n, doors, ways)) for n in range(draw(st.integers(0, 3)))),
        on_policy_change=draw(_KEEP_OR_CLOSE),
        tls=draw(_tls()),
        hbone=draw(_tunnels()),
        engine="python",
        limits=draw(
            st.builds(Limits, st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 10**9))
        ),
        timeouts=Timeouts(draw(_SECONDS), draw(_SECONDS), draw(_SECONDS), draw(_SECONDS), delay),
        admin=AdminSettings(listen=draw(off_or_unix), metrics=None),
        log=LogSettings(
            draw(st.sampled_from(["debug", "info", "warning", "error"])),
            draw(st.sampled_from(["json", "text"])),
            draw(st.sampled_from(["all", "denied", "none"])),
        ),
    )


@given(_settings())
@settings(deadline=None, max_examples=60)
def test_settings_written_as_yaml_or_json_are_the_same_settings(before: Settings) -> None:
    assert loaded(as_yaml(before)) == before
    assert loaded(as_json(before)) == before


@given(_settings())
@settings(deadline=None, max_examples=40)
def test_the_schema_accepts_what_the_loader_accepts(before: Settings) -> None:
    _VALIDATOR.validate(plain(before))


@given(_settings(), _settings())
@settings(deadline=None, max_examples=40)
def test_only_equal_settings_have_no_changes(before: Settings, after: Settings) -> None:
    assert changes(before, before).keys == ()
    assert changes(before, before).restart == ()
    assert (changes(before, after).keys == ()) == (before == after)
    for settings_ in (before, after):
        assert all(warning.reason for warning in warnings(settings_))
