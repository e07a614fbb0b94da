"""`deploy/container/pod-captured.yaml`: its rules do what it says, and fit its configuration."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.captured import ROOT, network
from uproxy.config import load

NAME = "tests.capture.test_the_example_of_a_pod_is_captured_by_its_init_container"
MANIFEST = ROOT / "deploy" / "container" / "pod-captured.yaml"
FAR = "http://198.51.100.7:8080/"
APPLICATION = 1000


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


def test_the_application_is_captured_and_the_sidecar_is_not(tmp_path: Path) -> None:
    rules = tmp_path / "capture.nft"
    rules.write_text(documents()[0]["capture.nft"])
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", NAME, str(rules)],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["refused", "captured", "not captured"]


async def pod(rules: Path) -> None:
    """Be the pod: say what becomes of its application without a sidecar and with one."""
    network()
    subprocess.run(["nft", "-f", rules], check=True)  # noqa: ASYNC221  nothing else runs here
    subprocess.run(["nft", "-f", rules], check=True)  # noqa: ASYNC221  again: nothing happens
    say(await get(APPLICATION))
    async with await asyncio.start_server(answer, None, 15001):
        say(await get(APPLICATION))
        say(await get(65532))


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ncaptured")
    await writer.drain()
    writer.close()


async def get(user: int) -> str:
    argv = ["setpriv", f"--reuid={user}", "--clear-groups", "curl", "-sS", "--max-time", "2", FAR]
    curl = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=DEVNULL)
    said, _ = await curl.communicate()
    return said.decode() or {7: "refused"}.get(curl.returncode or 0, "not captured")


if __name__ == "__main__":
    asyncio.run(pod(Path(sys.argv[1])))
