"""How much a peer may send of what costs us work and moves no byte of an application.

Each kind has a bucket: it holds `burst` and is refilled by `rate` a second, or by what it is
spent in relation to.  An empty one ends the tunnel with ENHANCE_YOUR_CALM (RFC 9113 §10.5).
Numbers are those of widely used servers where they have one, so that whoever can talk to them can
talk to us.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from uproxy.hbone.codes import ErrorCode, TunnelError

MAX_HEADER_LIST_BYTES = 16 << 10
"""Of a request or an answer, names and values and 32 bytes for each (RFC 9113 §6.5.2); what
ztunnel's client accepts.  A header block isn't longer either: one that is says the same in a longer
way."""
MAX_CONTINUATIONS = 8
"""Frames after HEADERS in one header block: nghttp2's limit since CVE-2024-28182."""
MAX_SETTINGS = 32
"""Values in one SETTINGS: nghttp2's limit since CVE-2020-11080."""
MAX_TABLE_UPDATES = 2
"""Changes of the dynamic table's size in one header block: more never make sense (RFC 7541
§4.2)."""
MAX_INFORMATIONAL = 5
"""Answers 1xx before the real one: Go's limit (net/http)."""
MAX_REPLIES_WAITING = 4096
"""Frames that a peer caused and doesn't take, beside two for each of its streams.  Envoy's
max_outbound_control_frames and nghttp2's limit (since CVE-2019-9512 and CVE-2019-9515) are 1000;
refusing Envoy's cold burst of 1024 takes two frames each."""
SMALL_DATA_BYTES = 256
"""A DATA frame shorter than this costs more than it carries: Rust's h2 draws the same line."""
SMALL_DATA_ROOM = 16 << 20
"""By how many bytes all small DATA frames that an application hasn't consumed may fall short of
SMALL_DATA_BYTES.  Rust's h2 allows half a window; 64 times that, because a ztunnel that sends
20,000 writes of a byte each to somebody who doesn't read does nothing wrong."""
UPDATES_PER_DATA = 10
"""WINDOW_UPDATEs that a DATA frame of ours allows:
Envoy's max_inbound_window_update_frames_per_data_frame_sent."""
UPDATES_PER_STREAM = 2
"""WINDOW_UPDATEs that a new stream allows, as in Envoy."""
PRIORITIES_PER_STREAM = 100
"""PRIORITY frames that a new stream allows: Envoy's max_inbound_priority_frames_per_stream."""


class Flood(enum.StrEnum):
    """Of what there was too much."""

    RESETS = "resets"
    """Streams that were reset before they were of use (CVE-2023-44487), by the peer or because of
    what it did (CVE-2025-8671)."""
    REFUSALS = "refusals"
    """Streams above the limit that we announced, or that aren't a CONNECT we understand."""
    DENIALS = "denials"
    """CONNECTs that our owner answered with 4xx: the peer may not go there, or nothing is there."""
    PINGS = "pings"
    SETTINGS = "settings"
    EMPTY_FRAMES = "empty_frames"
    CONTINUATIONS = "continuations"
    HEADERS = "headers"
    PRIORITIES = "priorities"
    WINDOW_UPDATES = "window_updates"
    SMALL_DATA = "small_data"
    STRAYS = "strays"
    """Frames for streams that have ended, of unknown types, and others without an effect."""
    REPLIES = "replies"
    """What we have to say because of the peer, and it doesn't take."""


class Bucket(NamedTuple):
    """How many at once, and how many a second for as long as the tunnel lasts."""

    burst: float
    rate: float


BUCKETS = {
    # nghttp2's stream reset rate limit, since CVE-2023-44487
    Flood.RESETS: Bucket(1000, 33),
    # Envoy opens up to 1024 streams until it has read our SETTINGS; it may do so twice
    Flood.REFUSALS: Bucket(2048, 100),
    # all streams of four full tunnels at once; then 200 clients that each try again every second
    Flood.DENIALS: Bucket(4096, 200),
    # Envoy and ztunnel send one every 10 s; gRPC measures with one for each round trip
    Flood.PINGS: Bucket(1000, 100),
    # one is enough; nghttp2 and Envoy only bound those that are unanswered
    Flood.SETTINGS: Bucket(100, 1),
    # Envoy ends a connection at the second in a row
    Flood.EMPTY_FRAMES: Bucket(100, 1),
    Flood.PRIORITIES: Bucket(PRIORITIES_PER_STREAM, 1),
    Flood.WINDOW_UPDATES: Bucket(1000, 100),
    # a stream that we reset may have a window's worth of frames on their way, of 1 KiB from ztunnel
    Flood.STRAYS: Bucket(4096, 1000),
}
"""By what it is a flood of."""

_MEANING = {
    Flood.RESETS: "streams reset before they were of use",
    Flood.REFUSALS: "requests that had to be refused",
    Flood.DENIALS: "requests for what it may not reach",
    Flood.PINGS: "PING frames",
    Flood.SETTINGS: "SETTINGS frames",
    Flood.EMPTY_FRAMES: "frames without content",
    Flood.CONTINUATIONS: "CONTINUATION frames in one header block",
    Flood.HEADERS: f"headers, which may have {MAX_HEADER_LIST_BYTES} bytes",
    Flood.PRIORITIES: "PRIORITY frames",
    Flood.WINDOW_UPDATES: "WINDOW_UPDATE frames for what we send",
    Flood.SMALL_DATA: "small DATA frames that wait for an application",
    Flood.STRAYS: "frames without effect",
    Flood.REPLIES: "frames to be answered while our answers aren't taken",
}


class FloodError(TunnelError):
    """There was too much of something."""

    def __init__(self, flood: Flood) -> None:
        reason = f"the peer sent too many {_MEANING[flood]}"
        super().__init__(ErrorCode.ENHANCE_YOUR_CALM, reason)
        self.flood = flood


class Budgets:
    """What a peer has left of each kind, on one tunnel."""

    def __init__(self, now: float) -> None:
        self._left = {flood: bucket.burst for flood, bucket in BUCKETS.items()}
        self._filled = dict.fromkeys(BUCKETS, now)

    def spend(self, flood: Flood, now: float) -> None:
        """Take one of a kind.

        Raises:
            FloodError: Nothing is left.
        """
        burst, rate = BUCKETS[flood]
        gained = max(0.0, now - self._filled[flood]) * rate
        left = max(self._left[flood], min(burst, self._left[flood] + gained))
        self._filled[flood] = now
        if left < 1:
            raise FloodError(flood)
        self._left[flood] = left - 1

    def give(self, flood: Flood, count: float) -> None:
        """Allow `count` more of a kind, but never more than ten times its burst."""
        self._left[flood] = min(self._left[flood] + count, 10 * BUCKETS[flood].burst)
