"""Each folder of deploy/examples: its two files run, but for ports and identities, beside the real
server and its real client."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.helpers.apps import Postgres, Redis
from tests.helpers.docs import ROOT
from tests.helpers.servers import Ferretdb, Kafka, MariaDb
from uproxy.lab.mesh import ORDERS, WEB, FileWorld
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy

EXAMPLES = ROOT / "deploy" / "examples"
HOST = "127.0.0.1"

Config = dict[str, Any]


@contextlib.contextmanager
def running(
    name: str,
    folder: Path,
    world: FileWorld,
    servers: Mapping[int, int],
    doors: Mapping[int, int] | None = None,
) -> Iterator[dict[int, int]]:
    """Run an example; yield where its clients connect to: ports by the file's.

    Args:
        servers: the port that each destination has in place of its application's, in the order of
            the file.
        doors: likewise for the client's doors; free ports by default.
    """
    end = free_port()
    server, client = (read(name, each) for each in ("server", "client"))
    server["identity"], client["identity"] = world.ours(ORDERS), world.ours(WEB)
    [door] = server["inbound"]
    door |= {"listen": f"{HOST}:{end}", "addresses": [HOST], "ports": list(servers.values())}
    server["authorization"][0]["to"] = {"ports": list(servers.values())}
    for each, port in zip(client["destinations"].values(), servers.values(), strict=True):
        each |= {"addresses": [f"{HOST}:{port}"], "hbone_port": end}
    moved = {}
    for each in client["outbound"]:
        written = int(each["listen"].rpartition(":")[2])
        moved[written] = (doors or {}).get(written) or free_port()
        each["listen"] = f"{HOST}:{moved[written]}"
    with (
        Uproxy(server, folder / f"{name}-server") as beside_server,
        Uproxy(client, folder / f"{name}-client") as beside_client,
    ):
        beside_server.wait_until_ready()
        beside_client.wait_until_ready()
        yield moved


def read(name: str, side: str) -> Config:
    found: Config = yaml.safe_load((EXAMPLES / name / f"{side}.yaml").read_text())
    return found


def test_every_example_is_tried_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert names == {"postgresql", "redis", "grpc", "mysql", "mongodb", "kafka"}


TLS_IN_USE = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_postgresql(
    folder: Path, file_world: FileWorld, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("PGSSLMODE", mode)
    with (
        Postgres() as server,
        running("postgresql", folder / mode, file_world, {5432: server.port}) as doors,
    ):
        assert Postgres.psql("select 6 * 7", doors[5432]) == "42"
        assert Postgres.psql(TLS_IN_USE, doors[5432]) == "f"


@pytest.mark.slow
def test_postgresql_with_tls_of_its_own(folder: Path, file_world: FileWorld) -> None:
    [hint] = re.findall(r"hostaddr=127\.0\.0\.1 host=[\w.]+", (EXAMPLES / "README.md").read_text())
    name = hint.rpartition("=")[2]
    server = Postgres()
    # neither of the two may be readable for others, says PostgreSQL
    issued = file_world.ca.issue(dns=(name,))
    for option, text in (("cert", issued.pem), ("key", issued.key_pem)):
        path = server.folder / f"{option}.pem"
        path.write_bytes(text)
        path.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")
        server.argv += ["-c", f"ssl_{option}_file={path}"]
    server.argv += ["-c", "ssl=on"]
    root = folder / "root.pem"
    root.write_bytes(file_world.ca.pem)

    with server, running("postgresql", folder / "tls", file_world, {5432: server.port}) as doors:

        def asked(words: str) -> subprocess.CompletedProcess[str]:
            conninfo = f"{words} port={doors[5432]} user=postgres dbname=postgres"
            argv = ["psql", "-X", "-q", "-A", "-t", "-d", conninfo, "-c", TLS_IN_USE]
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)

        assert asked("host=127.0.0.1 sslmode=require").stdout == "t\n"
        full = f"sslmode=verify-full sslrootcert={root}"
        assert asked(f"{hint} {full}").stdout == "t\n"
        by_address = asked(f"host=127.0.0.1 {full}")
        assert f'server certificate for "{name}"' in by_address.stderr
        assert by_address.stdout == ""


def test_redis(folder: Path, file_world: FileWorld) -> None:
    with (
        Redis(folder) as server,
        running("redis", folder, file_world, {6379: server.port}) as doors,
    ):
        assert Redis.cli("set", "a", "b", port=doors[6379]) == "OK"
        assert Redis.cli("get", "a", port=doors[6379]) == "b"


def test_grpc(folder: Path, file_world: FileWorld) -> None:
    """A call, a stream of answers, and the status that a server puts into its trailers."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers = {
        "Greet": grpc.unary_unary_rpc_method_handler(lambda request, _: b"hello " + request),
        "Count": grpc.unary_stream_rpc_method_handler(
            lambda request, _: (b"%d" % number for number in range(int(request)))
        ),
        "Refuse": grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.OUT_OF_RANGE, "no")
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Greeter", handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        with (
            running("grpc", folder, file_world, {50051: port}) as doors,
            grpc.insecure_channel(f"{HOST}:{doors[50051]}") as channel,
        ):
            greet = channel.unary_unary("/Greeter/Greet")
            assert greet(b"web", timeout=20) == b"hello web"
            count = channel.unary_stream("/Greeter/Count")
            assert list(count(b"1000", timeout=20)) == [b"%d" % number for number in range(1000)]
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/Greeter/Refuse")(b"", timeout=20)
            assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
    finally:
        server.stop(None)


@pytest.mark.slow
def test_mysql(folder: Path, file_world: FileWorld) -> None:
    import pymysql

    with (
        MariaDb() as server,
        running("mysql", folder, file_world, {3306: server.port}) as doors,
        pymysql.connect(
            host=HOST, port=doors[3306], user="web", password="secret", database="shop"
        ) as client,
        client.cursor() as cursor,
    ):
        cursor.execute("create table orders (id int primary key, note text)")
        cursor.executemany("insert into orders values (%s, %s)", [(n, "x" * n) for n in range(500)])
        client.commit()
        cursor.execute("select count(*), sum(length(note)) from orders")
        assert cursor.fetchone() == (500, 124_750)


@pytest.mark.slow
def test_mongodb(folder: Path, file_world: FileWorld) -> None:
    import pymongo

    with (
        Ferretdb(folder) as server,
        running("mongodb", folder, file_world, {27017: server.port}) as doors,
        pymongo.MongoClient[dict[str, Any]](
            f"mongodb://{HOST}:{doors[27017]}/?directConnection=true"
        ) as client,
    ):
        orders = client["shop"]["orders"]
        orders.insert_many([{"number": number, "note": "x" * number} for number in range(500)])
        assert orders.count_documents({"number": {"$gte": 250}}) == 250


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated")  # its own use of importlib
def test_kafka(folder: Path, file_world: FileWorld) -> None:
    """Two brokers: a client that knows one is sent to both."""
    import kafka

    advertised = {19092: free_port(), 19093: free_port()}
    controller = free_port()
    brokers = [
        Kafka(folder, number, port, controller)
        for number, port in enumerate(advertised.values(), start=1)
    ]
    with contextlib.ExitStack() as stack:
        for each in brokers:
            stack.enter_context(each)
        servers = {number: each.port for number, each in enumerate(brokers)}
        stack.enter_context(running("kafka", folder, file_world, servers, advertised))
        bootstrap = f"{HOST}:{advertised[19092]}"
        topic = kafka.admin.NewTopic("orders", num_partitions=4, replication_factor=1)
        with contextlib.closing(kafka.KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
            admin.create_topics([topic])
        with contextlib.closing(kafka.KafkaProducer(bootstrap_servers=bootstrap)) as producer:
            for number in range(1000):
                producer.send("orders", json.dumps(number).encode())
            producer.flush()
        consumer = kafka.KafkaConsumer(
            "orders",
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            consumer_timeout_ms=20_000,
        )
        with contextlib.closing(consumer):
            found = {int(next(consumer).value) for _ in range(1000)}
    assert found == set(range(1000))
