"""What HTTP/2 frames are made of: types, flags, settings and error codes (RFC 9113 §6, §7)."""

from __future__ import annotations

import enum

from uproxy.errors import UproxyError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes that a client sends (§3.4)."""
HEADER_BYTES = 9
"""What is before each frame's payload (§4.1)."""
MAX_FRAME_BYTES = 16_384
"""The longest payload that everybody accepts (§6.5.2).  Envoy announces no more than that, so no
more is sent, nor accepted."""
MAX_WINDOW = 2**31 - 1
"""A window that would become larger is an error (§6.9.1)."""
DEFAULT_WINDOW = 65_535
"""Of a tunnel, and of each stream until SETTINGS say otherwise (§6.9.2)."""
MAX_STREAM_ID = 2**31 - 1
"""Stream ids have 31 bits (§5.1.1)."""
HEADER_TABLE_BYTES = 4096
"""The dynamic table of HPACK, as long as SETTINGS don't say otherwise (§6.5.2)."""


class FrameType(enum.IntEnum):
    """What a frame is for (§6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


ACK = 0x1
"""On SETTINGS and PING: an answer."""
END_STREAM = 0x1
"""On DATA and HEADERS: the sender's last on this stream."""
END_HEADERS = 0x4
"""On HEADERS and CONTINUATION: the header block is complete."""
PADDED = 0x8
"""On DATA and HEADERS: begins with the length of the padding at its end."""
PRIORITY = 0x20
"""On HEADERS: five bytes of priority are before the header block."""


class Setting(enum.IntEnum):
    """What one end says of itself in SETTINGS (§6.5.2; RFC 8441 §3)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


class ErrorCode(enum.IntEnum):
    """Why a stream or a tunnel ended (§7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13

    @classmethod
    def of(cls, number: int) -> ErrorCode:
        """Return the code of a number; one that isn't known means INTERNAL_ERROR (§7)."""
        return _CODES.get(number, cls.INTERNAL_ERROR)


_CODES = {code.value: code for code in ErrorCode}


class TunnelError(UproxyError):
    """The peer broke a rule that ends the whole tunnel, a connection error of §5.4.1."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamError(UproxyError):
    """The peer broke a rule that ends one stream, a stream error of §5.4.2."""

    def __init__(self, stream: int, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.code = code
        self.reason = reason
