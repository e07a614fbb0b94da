"""Puts a snapshot in force: in one step of the event loop every listener is given its door of the
new snapshot, and the registry begins to check open connections by it.

Whatever changes (configuration, credentials, addresses) comes through here, so that nothing is
ever decided by parts of two snapshots.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Final

from uproxy.addresses import Records
from uproxy.app.doors import Doors
from uproxy.connections import Connections
from uproxy.destinations import AllEndpoints
from uproxy.identity.credentials import Credentials
from uproxy.model import ListenAddress, TcpAddress
from uproxy.proxy.doors import make_doors
from uproxy.proxy.services import Services
from uproxy.snapshot import Snapshot

GATHER_S: Final = 0.02
"""Seconds that an answer of the resolver waits for others: a snapshot for each would be one for
every name at start."""


class Current:
    """Knows the snapshot in force, and makes the next one of whatever changes."""

    def __init__(self, services: Services, doors: Doors) -> None:
        self._services = services
        self._doors = doors
        self._answers: dict[TcpAddress, tuple[TcpAddress, ...]] = {}  # waiting to be put in force
        self._gathering: asyncio.TimerHandle | None = None  # while there are any

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force."""
        return self._connections.snapshot

    @property
    def names(self) -> frozenset[TcpAddress]:
        """The names that a resolver must look up."""
        return self.snapshot.names

    def put(
        self, snapshot: Snapshot, fresh: Mapping[ListenAddress, socket.socket] | None = None
    ) -> None:
        """Put `snapshot` in force; this can't fail.  `fresh` are listening sockets for doors that
        are new in it (`Doors.open_new`), None where its doors listen at the same addresses."""
        doors = make_doors(snapshot, self._services)
        reloaded = snapshot.settings is not self.snapshot.settings
        if fresh is None:
            self._doors.renew(doors)
        else:
            self._doors.replace(doors, fresh)
        self._connections.replace(snapshot)
        self._endpoints.follow(snapshot.addresses, reloaded=reloaded)

    def credentials_changed(self, _before: Credentials, after: Credentials) -> None:
        """Follow the identity source (`IdentitySource.subscribe`)."""
        self.put(self.snapshot.with_credentials(after))

    def tokens_changed(self, tokens: Mapping[str, str]) -> None:
        """Put in force the tokens that prove us to destinations, by destination."""
        self.put(self.snapshot.with_tokens(tokens))

    def resolved(self, name: TcpAddress, records: tuple[TcpAddress, ...]) -> None:
        """Take the resolver's answer for `name`.  If it differs from the last one it is put in
        force within GATHER_S seconds; an answer without a record is ignored."""
        if not records or name not in self.names:
            return
        self._answers[name] = records
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_S, self.take_answers)

    def take_answers(self) -> None:
        """Put in force the resolver's answers that wait for others."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        answers: Records = {
            name: records
            for name, records in self._answers.items()
            # their order alone is no change: round-robin DNS turns it with every answer
            if frozenset(self.snapshot.records.get(name, ())) != frozenset(records)
        }
        self._answers = {}
        if answers:
            self.put(self.snapshot.with_records(answers))

    @property
    def _connections(self) -> Connections:
        return self._services.connections

    @property
    def _endpoints(self) -> AllEndpoints:
        return self._services.endpoints
