"""Servers that only the examples are tried with: MariaDB, FerretDB (MongoDB's protocol), Kafka.

Each is a context manager as in tests/helpers/apps.py, on a loopback port that it is given or picks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer

KAFKA = Path(__file__).parents[2] / ".cache" / "kafka"
"""Kafka's jars, from tests/peers/kafka/pom.xml."""
_KAFKA_PROPERTIES = """\
process.roles={roles}
node.id={number}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners}
advertised.listeners=CLIENTS://127.0.0.1:{advertised},BROKERS://127.0.0.1:{own}
listener.security.protocol.map=CLIENTS:PLAINTEXT,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKERS
controller.listener.names=CONTROLLER
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
log.dirs={folder}/logs
"""
_CLUSTER = "uProxyExamplesTest1234"


class MariaDb(Process):
    """A new MariaDB with the user `web`, whose password is `secret`."""

    def __init__(self) -> None:
        self.port = free_port()
        # MariaDB refuses to be root, and pytest's folders let nobody else in
        self.folder = Path(tempfile.mkdtemp(prefix="uproxy-mariadb-"))
        user = "mysql" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self.folder, user, user)
        self._data = f"--datadir={self.folder}/data"
        argv = ["mariadbd", "--no-defaults", self._data, "--bind-address=127.0.0.1",
                f"--port={self.port}", f"--socket={self.folder}/socket", "--skip-name-resolve",
                f"--init-file={self.folder}/init.sql"]  # fmt: skip
        super().__init__(argv, self.folder / "log", user=user)

    def is_ready(self) -> bool:
        return "ready for connections" in self.output

    def __enter__(self) -> Self:
        (self.folder / "init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS shop;\n"
            "CREATE USER IF NOT EXISTS 'web'@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON shop.* TO 'web'@'127.0.0.1';\n"
        )
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", self._data, "--skip-test-db",
             "--auth-root-authentication-method=normal"],
            check=True, capture_output=True, timeout=120, user=self._user, group=self._user,
        )  # fmt: skip
        return super().__enter__()

    def __exit__(self, *why: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class Ferretdb(Process):
    """A FerretDB without documents."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        data = folder / "ferretdb"
        data.mkdir()
        super().__init__([peer("ferretdb"), str(self.port), data], folder / "ferretdb.log")

    def is_ready(self) -> bool:
        return listens(self.port)


class Kafka(Process):
    """One of a cluster's brokers, whose clients are sent to the loopback port `advertised`.

    Broker 1 is started first: it is the controller too, on the port `controller`.
    """

    def __init__(self, folder: Path, number: int, advertised: int, controller: int) -> None:
        self.port, own = free_port(), free_port()
        listeners = [f"CLIENTS://127.0.0.1:{self.port}", f"BROKERS://127.0.0.1:{own}"]
        if number == 1:
            listeners.append(f"CONTROLLER://127.0.0.1:{controller}")
        home = folder / f"kafka-{number}"
        home.mkdir()
        self._properties = home / "server.properties"
        self._properties.write_text(
            _KAFKA_PROPERTIES.format(
                number=number,
                roles="broker,controller" if number == 1 else "broker",
                listeners=",".join(listeners),
                own=own,
                controller=controller,
                advertised=advertised,
                folder=home,
            )
        )
        self._java = ["java", "-Xmx256m", "-cp", f"{KAFKA}/*"]
        super().__init__([*self._java, "kafka.Kafka", self._properties], home / "log")

    def is_ready(self) -> bool:
        return listens(self.port)

    def __enter__(self) -> Self:
        tool = [*self._java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER]
        argv = [*tool, "-c", str(self._properties)]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        return super().__enter__()
