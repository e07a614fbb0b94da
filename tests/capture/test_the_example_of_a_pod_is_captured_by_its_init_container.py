"""`deploy/container/pod-captured.yaml`: its rules do what it says, and fit its configuration."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.captured import OURS, ROOT, cable, network, reached_by_cable, redirect
from uproxy.config import load

NAME = "tests.capture.test_the_example_of_a_pod_is_captured_by_its_init_container"
MANIFEST = ROOT / "deploy" / "container" / "pod-captured.yaml"
FAR = ("198.51.100.7", "2001:db8:1::7")
APPLICATION, SIDECAR = 1000, 65532
NOTRACK = """
table inet untracked {
  chain output { type filter hook output priority raw; meta l4proto tcp notrack; }
  chain prerouting { type filter hook prerouting priority raw; meta l4proto tcp notrack; }
}
"""
"""Conntrack follows no connection, so that none is redirected."""


def documents() -> tuple[dict[str, str], dict[str, Any]]:
    """The files of the ConfigMap, and the pod."""
    config, pod = yaml.safe_load_all(MANIFEST.read_text())
    return config["data"], pod["spec"]


def test_the_doors_are_where_its_rules_lead_and_the_users_are_apart() -> None:
    files, pod = documents()
    settings = load(files["uproxy.yaml"], environ={}, overrides=(), folder="/")
    [callers], [application] = settings.inbound, settings.outbound
    rules = files["capture.nft"]
    assert f"redirect to :{callers.listen.port}" in rules  # type: ignore[union-attr]  # TCP
    assert f"redirect to :{application.listen.port}" in rules  # type: ignore[union-attr]  # TCP
    capture, proxy = pod["initContainers"]
    assert capture["command"][0] == "nft"
    assert capture["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    sidecar = proxy["securityContext"]["runAsUser"]
    assert f"meta skuid {sidecar} return" in rules
    assert pod["containers"][0]["securityContext"]["runAsUser"] not in (0, sidecar)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The file that the init container hands to nft."""
    file = tmp_path / "capture.nft"
    file.write_text(documents()[0]["capture.nft"])
    return file


def played(part: str, rules: Path) -> list[str]:
    """Return what a function of this file says in a network namespace of its own."""
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", NAME, part, str(rules)],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_application_is_captured_and_the_sidecar_is_not(rules: Path) -> None:
    assert played("pod", rules) == [
        "no sidecar: refused, refused",
        "the application: captured, captured",
        "the sidecar: in clear, in clear",
        "a caller: captured, captured",
    ]


def test_what_nft_does_not_redirect_gets_neither_out_nor_in(rules: Path) -> None:
    assert played("untracked", rules) == [
        "the application: no answer, no answer",
        "the sidecar: in clear, in clear",
        "a caller: no answer, no answer",
    ]


async def pod(rules: Path) -> None:
    """Be the pod: say what becomes of its connections without a sidecar and with one."""
    network()
    for _ in range(2):  # the second time nothing happens
        subprocess.run(["nft", "-f", rules], check=True)  # noqa: ASYNC221  nothing else runs here
    say("no sidecar", await ask(APPLICATION, FAR))
    await talk()


async def untracked(rules: Path) -> None:
    """Be a pod in which conntrack follows nothing."""
    network()
    subprocess.run(["nft", "-f", rules], check=True)  # noqa: ASYNC221  nothing else runs here
    redirect(NOTRACK)
    await talk()


async def talk() -> None:
    """Be the sidecar and the application, dial others and be dialled by them."""
    async with (
        await asyncio.start_server(answering("captured"), None, 15001),
        await asyncio.start_server(answering("captured"), None, 15006),
        await asyncio.start_server(answering("in clear"), None, 8080),
    ):
        argv = ["unshare", "--net", sys.executable, "-m", NAME, "others"]
        others = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE)
        assert await heard(others) == "apart"
        cable(others.pid)
        assert await heard(others, "connected") == "ready"
        say("the application", await ask(APPLICATION, FAR))
        say("the sidecar", await ask(SIDECAR, FAR))
        say("a caller", await heard(others, "call"))
        others.kill()
        await others.wait()


async def others() -> None:
    """Be everybody else: a server, and a caller of the pod."""
    sys.stdout.write("apart\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    reached_by_cable(*FAR)
    async with await asyncio.start_server(answering("in clear"), None, 8080):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        sys.stdout.write(f"{await ask(APPLICATION, OURS)}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)


async def heard(others: Process, word: str = "") -> str:
    assert others.stdin is not None
    assert others.stdout is not None
    if word:
        others.stdin.write(f"{word}\n".encode())
    return (await others.stdout.readline()).decode().strip()


def say(who: str, what: str) -> None:
    sys.stdout.write(f"{who}: {what}\n")


def answering(word: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(word)}\r\nConnection: close\r\n\r\n"
        writer.write(f"{head}{word}".encode())
        await writer.drain()
        writer.close()

    return answer


async def ask(user: int, hosts: Sequence[str]) -> str:
    """Return what a user's curl finds at these hosts."""
    return ", ".join(await asyncio.gather(*(get(user, host) for host in hosts)))


async def get(user: int, host: str) -> str:
    url = f"http://[{host}]:8080/" if ":" in host else f"http://{host}:8080/"
    argv = ["setpriv", f"--reuid={user}", "--clear-groups", "curl", "-sS", "--max-time", "2", url]
    curl = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=DEVNULL)
    said, _ = await curl.communicate()
    return said.decode() or {7: "refused", 28: "no answer"}[curl.returncode or 0]


if __name__ == "__main__":
    if sys.argv[1] == "others":
        asyncio.run(others())
    else:
        asyncio.run({"pod": pod, "untracked": untracked}[sys.argv[1]](Path(sys.argv[2])))
