"""benchmarks.harness.proxies and rounds: what each row is asked for, and who comes when.

Nothing is started here; whether the proxies do as they are told is looked at on the wire, by
each benchmark before it measures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import proxies
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.figures import Figures
from benchmarks.harness.haproxy import Haproxy
from benchmarks.harness.proxies import Proxy, ProxyKind
from benchmarks.harness.rounds import _round
from uproxy.config import load
from uproxy.lab.mesh import FileWorld
from uproxy.lab.processes import Uproxy

UPROXIES = [proxies.UPROXY, proxies.UPROXY_PQ, proxies.UPROXY_LOGGING, proxies.PYTHON_ENGINE]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> FileWorld:
    return FileWorld(tmp_path_factory.mktemp("identities"))


def made(kind: ProxyKind, folder: Path, identities: FileWorld) -> tuple[Proxy, Proxy]:
    """A and B, not started, on the way to an application's port."""
    assert kind.inbound is not None
    assert kind.outbound is not None
    b = kind.inbound(folder, identities, 1)
    return kind.outbound(folder, identities, b.port, 1), b


@pytest.mark.parametrize("kind", UPROXIES, ids=lambda kind: kind.key)
def test_uproxy_is_configured_as_any_user_would(
    kind: ProxyKind, tmp_path: Path, identities: FileWorld
) -> None:
    for proxy in made(kind, tmp_path, identities):
        assert isinstance(proxy, Uproxy)
        text = proxy.config_file.read_text()
        settings = load(text, environ={}, overrides=[], folder=str(tmp_path))
        assert settings.engine == ("python" if kind is proxies.PYTHON_ENGINE else "native")
        assert settings.log.access == ("all" if kind is proxies.UPROXY_LOGGING else "none")
        assert settings.tls.groups[0] == kind.group
        assert settings.tls.ciphers == (proxies.CIPHER,)


@pytest.mark.parametrize("kind", proxies.TUNNELS, ids=lambda kind: kind.key)
def test_tunnels_are_negotiated_alike(
    kind: ProxyKind, tmp_path: Path, identities: FileWorld
) -> None:
    assert kind.tunnels
    for proxy in made(kind, tmp_path, identities):
        if isinstance(proxy, Uproxy):
            text = proxy.config_file.read_text()
            settings = load(text, environ={}, overrides=[], folder=str(tmp_path))
            assert settings.tls.groups == (proxies.X25519,)
            assert settings.tls.ciphers == (proxies.CIPHER,)
        else:
            words = proxy.argv
            text = Path(words[words.index("-c") + 1]).read_text()
            assert '"ecdh_curves": [\n' in text
            assert '"max_requests": 20000' in text


@pytest.mark.parametrize("kind", [proxies.ENVOY, proxies.ENVOY_PQ], ids=lambda kind: kind.key)
def test_envoy_has_two_threads_and_room_for_all_connections(
    kind: ProxyKind, tmp_path: Path, identities: FileWorld
) -> None:
    for proxy in made(kind, tmp_path, identities):
        words = proxy.argv
        assert words[words.index("--concurrency") + 1] == "2"
        bootstrap = json.loads(Path(words[words.index("-c") + 1]).read_text())
        (cluster,) = bootstrap["static_resources"]["clusters"]
        (most,) = cluster["circuit_breakers"]["thresholds"]
        assert min(most.values()) > 5_000


def test_ghostunnel_has_two_threads(tmp_path: Path, identities: FileWorld) -> None:
    for proxy in made(proxies.GHOSTUNNEL, tmp_path, identities):
        assert proxy.argv[:3] == ["env", "GOMAXPROCS=2", "GODEBUG=tlsmlkem=0"]


def test_haproxy_verifies_on_both_sides_and_resumes_nothing(
    tmp_path: Path, identities: FileWorld
) -> None:
    a, b = made(proxies.HAPROXY, tmp_path, identities)
    assert isinstance(a, Haproxy)
    assert isinstance(b, Haproxy)
    for proxy, side in (a, "server target"), (b, "bind"):
        conf = Path(proxy.argv[-1])
        lines = [line.strip() for line in conf.read_text().splitlines()]
        assert "nbthread 2" in lines
        (encrypted,) = [line for line in lines if " ssl " in line]
        assert encrypted.startswith(side)
        assert "verify required" in encrypted
        assert ("no-ssl-reuse" in encrypted) is (proxy is a)
        openssl = conf.with_name("openssl.cnf").read_text()
        assert "NumTickets = 0" in openssl
        assert (conf.parent / "svid-and-key.pem").stat().st_mode & 0o077 == 0


def in_order(order: list[str], *, fails: str = "") -> Benchmark:
    def measure(_stage: Stage, kind: ProxyKind) -> Figures:
        order.append(kind.key)
        if kind.key == fails:
            raise RuntimeError("broken")
        return {"figure": len(order)}

    kinds = (proxies.ENVOY, proxies.HAPROXY, proxies.UPROXY)
    return Benchmark("sample", "Sample", (Column("figure", "figure"),), kinds, measure, (), 1)


def test_every_second_round_goes_backwards(tmp_path: Path, identities: FileWorld) -> None:
    order: list[str] = []
    stage = Stage(tmp_path, identities, None, 1)
    first, second = (_round(in_order(order), stage, number) for number in (1, 2))
    assert order == ["envoy", "haproxy", "uproxy", "uproxy", "haproxy", "envoy"]
    assert first["envoy"] == {"figure": 1}
    assert second["envoy"] == {"figure": 6}


def test_an_error_says_which_row_it_was(tmp_path: Path, identities: FileWorld) -> None:
    stage = Stage(tmp_path, identities, None, 1)
    with pytest.raises(RuntimeError, match="broken") as raised:
        _round(in_order([], fails="haproxy"), stage, 3)
    assert raised.value.__notes__ == ["sample, round 3, HAProxy"]
