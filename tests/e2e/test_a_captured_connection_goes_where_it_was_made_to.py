"""curl, which knows nothing of uProxy, is redirected by nft, and reaches what it asked for: under
mTLS, through a tunnel, or in clear, as the destination that matches says.

The frontend has a network namespace of its own, `there` is another one, behind a cable (veth).
This file runs itself in both.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.captured import (
    ROOT,
    bring_marked_home,
    cable,
    network,
    reached_by_cable,
    redirect,
)
from tests.helpers.pair import FRONTEND, ORDERS, Config, end_at_once, identity_of
from uproxy.cli.status_answer import Uproxy as Answering
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually
from uproxy.model import UnixAddress

pytestmark = pytest.mark.privileged

NAME = "tests.e2e.test_a_captured_connection_goes_where_it_was_made_to"
NOBODY = 65534
RULES = f"""
table inet capture {{
  chain output {{
    type nat hook output priority -100
    meta skuid != {NOBODY} return
    meta l4proto tcp redirect to :15001
  }}
}}
"""
"""Whatever curl does is captured, and nothing of uProxy's."""
THEIR_RULES = """
table inet capture {
  chain prerouting {
    type nat hook prerouting priority dstnat
    ip daddr 198.51.100.10 meta l4proto tcp redirect to :15006
    ip daddr 198.51.100.11 meta l4proto tcp redirect to :15007
  }
}
"""
"""What arrives at two addresses of the other side is captured there."""
APPLICATIONS = {
    "in-mtls": ("198.51.100.10", 8080),
    "in-clear": ("198.51.100.10", 3306),
    "in-passing": ("198.51.100.10", 8444),
    "in-either": ("198.51.100.10", 8082),
    "in-unlisted": ("198.51.100.10", 8081),
    "in-source": ("198.51.100.11", 8080),
    "mtls": ("127.0.0.1", 8080),
    "tunnel": ("198.51.100.8", 80),
    "clear": ("198.51.100.9", 80),
    "six": ("2001:db8:1::9", 80),
}


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_captured_connection_goes_where_it_was_made_to(engine: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", __name__, engine, str(tmp_path)],
        capture_output=True, text=True, timeout=90, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    assert told["http://198.51.100.7:8443/"] == "mtls"
    assert told["http://198.51.100.8/"] == "tunnel"
    assert told["http://198.51.100.9/"] == "clear"
    assert told["http://[2001:db8:1::9]/"] == "six"
    assert told["destinations"] == "mtls tunnel clear clear"
    itself = "http://192.0.2.1:15001/"
    assert told[itself] == "reset"
    for captured, wanted in {
        "8080-as-nobody": "in-mtls",
        "8082-as-nobody": "in-either",
        "3306-as-root": "in-clear",
        "8444-as-root": "in-passing",
        "8082-as-root": "in-either",
        "8080-as-root": "reset",
        "8081-as-root": "reset",
        "15006-as-root": "reset",
    }.items():
        assert told[captured] == wanted, captured
    assert told["seen-by-the-application"] == "in-source 192.0.2.1"
    assert "where uProxy itself listens" in told["refused-itself"]
    assert "could lead back here" in told["refused-own"]
    assert "connection refused by 198.51.100.7:8444" in told["down-here"]
    assert "1 address failing" in told["wrong-here"]
    assert "connection refused by 198.51.100.10:8085" in told["down-there"]
    assert "1 application down" in told["wrong-there"]


def here(engine: str, folder: Path) -> None:
    """The frontend's side."""
    ca = Authority("example.org")
    web = write_identity(folder / "web", ca.issue("/ns/web/sa/frontend"), ca.pem)
    shop = write_identity(folder / "shop", ca.issue("/ns/shop/sa/orders"), ca.pem)
    network()
    admin = {"listen": f"unix://{folder}/admin.sock", "metrics": None, "ready": None}
    orders = Uproxy({**_orders(engine, identity_of(shop)), "admin": admin}, folder / "orders")
    argv = ["unshare", "--net", sys.executable, "-m", NAME, "there", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        assert there.stdout.readline() == "apart\n"
        cable(there.pid)
        there.stdin.write(f"{orders.config_file}\n")
        there.stdin.flush()
        assert there.stdout.readline() == "ready\n"
        redirect(RULES)
        uproxy = Uproxy(_frontend(engine, identity_of(web)), folder / "frontend")
        with uproxy:
            uproxy.wait_until_ready()
            _ask(uproxy)
            _ask_the_dead(uproxy, folder / "admin.sock")
            end_at_once(uproxy)
        there.stdin.close()


def _ask(uproxy: Uproxy) -> None:
    for port in (8080, 8082):
        print(f"{port}-as-nobody", _came(_curl(f"http://198.51.100.10:{port}/")))  # noqa: T201
    print("seen-by-the-application", _came(_curl("http://198.51.100.11:8080/")))  # noqa: T201
    for port in (3306, 8444, 8082, 8080, 8081, 15006):
        asked = _curl(f"http://198.51.100.10:{port}/", as_root=True)
        print(f"{port}-as-root", _came(asked))  # noqa: T201
    for url in (
        "http://198.51.100.7:8443/", "http://198.51.100.8/", "http://198.51.100.9/",
        "http://[2001:db8:1::9]/",
    ):  # fmt: skip
        print(url, _curl(url)[1])  # noqa: T201
    wanted = [_wait_for(uproxy, number)["destination"] for number in range(3, 7)]
    print("destinations", *wanted)  # noqa: T201
    print("http://192.0.2.1:15001/", _came(_curl("http://192.0.2.1:15001/")))  # noqa: T201
    print("refused-itself", _wait_for(uproxy, 7)["error"])  # noqa: T201
    _curl("http://192.0.2.1:81/")
    print("refused-own", _wait_for(uproxy, 8)["error"])  # noqa: T201


def _ask_the_dead(uproxy: Uproxy, admin: Path) -> None:
    """Where nobody listens: at a captured destination, and behind a captured door."""
    for url in ("http://198.51.100.7:8444/", "http://198.51.100.10:8085/"):
        assert _came(_curl(url)) == "reset"
    here = json.loads(uproxy.request("/status.json")[1])
    fates = {each["name"]: each["endpoints"] for each in here["destinations"]}
    print("down-here", *(each["reason"] for each in fates["mtls"]))  # noqa: T201
    print("wrong-here", here["headline"]["words"])  # noqa: T201
    there = Answering(UnixAddress(str(admin))).fetch()
    down = {each["name"]: each["trouble"] for each in there["doors"]}
    print("down-there", down["[::]:15006"])  # noqa: T201
    print("wrong-there", there["headline"]["words"])  # noqa: T201


def _wait_for(uproxy: Uproxy, number: int) -> dict[str, object]:
    asyncio.run(eventually(lambda: len(uproxy.accesses) > number, f"access {number}"))
    return uproxy.accesses[number]


def _came(asked: tuple[int, str]) -> str:
    code, body = asked
    # curl: it could not connect, nothing came, or it was reset
    return "reset" if code in (7, 52, 56) else body or str(code)


def _curl(url: str, *, as_root: bool = False) -> tuple[int, str]:
    who = [] if as_root else ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    ran = subprocess.run(
        [*who, "curl", "-sS", "--max-time", "10", url], capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout


def _frontend(engine: str, identity: Config) -> Config:
    def to(network: str, transport: str) -> Config:
        return {"match": {"addresses": [network]}, "transport": transport, "identities": [ORDERS]}

    return {
        "engine": engine,
        "identity": identity,
        "outbound": [{"listen": "127.0.0.1:15001", "captured": True}],
        "destinations": {
            "mtls": to("198.51.100.7", "mtls"),
            "captured-there": to("198.51.100.10/31", "mtls"),
            "tunnel": to("198.51.100.8/32", "hbone"),
            "clear": {
                "match": {"addresses": ["0.0.0.0/0", "::/0"]},
                "transport": "plaintext",
            },
        },
    }


def _orders(engine: str, identity: Config) -> Config:
    return {
        "engine": engine,
        "identity": identity,
        "inbound": [
            {"listen": "198.51.100.7:8443", "transport": "mtls", "to": "127.0.0.1:8080"},
            {"listen": "198.51.100.8:15008", "transport": "hbone", "ports": [80]},
            {
                "listen": "[::]:15006",
                "captured": True,
                "ports": {
                    8080: "mtls",
                    8082: "mtls",
                    8085: "mtls",
                    3306: "plaintext",
                    8444: "passthrough",
                },
                "migrate": [8082],
            },
            {
                "listen": "[::]:15007",
                "captured": True,
                "ports": {8080: "mtls"},
                "preserve_source": True,
            },
        ],
        "authorization": [
            {"action": "allow", "from": {"identities": [FRONTEND]}},
            {
                "action": "allow",
                "from": {"unauthenticated": True},
                "to": {"ports": [3306, 8444, 8082]},
            },
        ],
    }


async def there(folder: Path) -> None:
    """The other side: the applications, and the uProxy of two of them."""
    print("apart", flush=True)  # noqa: T201
    config = Path(await asyncio.to_thread(sys.stdin.readline))
    addresses = dict.fromkeys(host for host, _ in APPLICATIONS.values() if host != "127.0.0.1")
    reached_by_cable("198.51.100.7", *addresses)
    redirect(THEIR_RULES)
    bring_marked_home()
    for name, (host, port) in APPLICATIONS.items():
        await asyncio.start_server(_answer(name), host, port)
    argv = [sys.executable, "-m", "uproxy", "run", "--config", str(config).strip()]
    log = (folder / "there.log").open("w")
    uproxy = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
    await eventually(
        lambda: "the configuration" in (folder / "there.log").read_text()
        or subprocess.run(["ss", "-Hltn", "sport", "15008"], capture_output=True).stdout != b"",
        "the uProxy listens",
    )  # fmt: skip
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    uproxy.kill()
    await uproxy.wait()


def _answer(name: str) -> asyncio.streams._ClientConnectedCallback:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        peer = writer.get_extra_info("peername")[0]
        body = f"{name} {peer}".encode() if name == "in-source" else name.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    return answer


if __name__ == "__main__":
    if sys.argv[1] == "there":
        asyncio.run(there(Path(sys.argv[2])))
    else:
        here(sys.argv[1], Path(sys.argv[2]))
