# cython: language_level=3, cdivision=True
"""The compiled engine's HTTP/2, for Python to call: sessions, header blocks, and their numbers."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from uproxy.transport.native cimport budgets, control, frames, hpack, hpack_table, sending, windows
from uproxy.transport.native.blocks cimport BAD_REQUEST
from uproxy.transport.native.faults cimport SF_AUTHORITY, SF_FLOOD, SF_TOO_MANY, code_of, fault_words, flood_of
from uproxy.transport.native.frames cimport Bytes, free_bytes
from uproxy.transport.native.hpack cimport (
    Headers, decode_block, decode_huffman, put_connect, put_field, put_status,
)
from uproxy.transport.native.hpack_table cimport HeaderDecoder, free_decoder
from uproxy.transport.native.streams cimport (
    ENDED_STREAMS, ConnectRequest, H2Stream, Session, SessionCalls, SessionSettings, find_stream, take,
)
from uproxy.transport.native.windows cimport is_overfull, note_read
from uproxy.transport.native.reading cimport (
    STREAM_NOT_NOW, ends_here, is_readable, read_stream,
)
from uproxy.transport.native.sending cimport finish_stream, send_data, send_some
from uproxy.transport.native.verbs cimport (
    answer_stream, drop_output_of, open_stream, output_of, release_stream, reset_stream,
    session_room, unacknowledged,
)
from uproxy.transport.native.rules cimport close_session, lose_session
from uproxy.transport.native.control cimport go_away, send_ping
from uproxy.transport.native.session cimport (
    end_session, receive_frames, start_session, trim_session,
)


def constants() -> dict[str, int]:
    """Numbers that uproxy/hbone has too."""
    return {
        "MAX_HEADER_LIST_BYTES": hpack.MAX_HEADER_LIST,
        "MAX_CONTINUATIONS": budgets.MAX_CONTINUATIONS,
        "MAX_SETTINGS": budgets.MAX_SETTINGS,
        "MAX_TABLE_UPDATES": hpack.MAX_RESIZES,
        "MAX_INFORMATIONAL": budgets.MAX_INFORMATIONAL,
        "MAX_REPLIES_WAITING": budgets.MAX_REPLIES,
        "SMALL_DATA_BYTES": budgets.SMALL_DATA,
        "SMALL_DATA_ROOM": budgets.SMALL_DATA_ROOM,
        "UPDATES_PER_DATA": budgets.UPDATES_PER_DATA,
        "UPDATES_PER_STREAM": budgets.UPDATES_PER_STREAM,
        "PRIORITIES_PER_STREAM": budgets.PRIORITIES_PER_STREAM,
        "HELD_WINDOWS": windows.UNREAD_WINDOWS,
        "LEAST_INCREMENT": windows.LEAST_RETURNED,
        "EXTRA_WINDOWS": windows.EXTRA_WINDOWS,
        "MOST_EXTRA": windows.MOST_EXTRA,
        "MOST_EXTRA_OF_ALL": windows.MOST_EXTRA_OF_ALL,
        "FAST_S": windows.FAST_MS / 1000.0,
        "SLOW_S": windows.SLOW_MS / 1000.0,
        "STREAMS_BEFORE_SETTINGS": sending.MOST_BEFORE_SETTINGS,
        "_SILLY_BYTES": sending.SILLY,
        "_REMEMBERED": ENDED_STREAMS,
        "_BAD_REQUEST": BAD_REQUEST,
        "_DEBUG_BYTES": control.MAX_DEBUG,
        "MAX_FRAME_BYTES": frames.MAX_FRAME,
        "DEFAULT_WINDOW": frames.DEFAULT_WINDOW,
        "HEADER_TABLE_BYTES": hpack_table.MAX_TABLE,
    }


def buckets() -> dict[str, tuple[float, float]]:
    """(burst, rate) of each kind that has a bucket."""
    names = ["RESETS", "REFUSALS", "DENIALS", "PINGS", "SETTINGS", "EMPTY_FRAMES", "PRIORITIES",
             "WINDOW_UPDATES", "STRAYS"]
    return {name: (budgets.burst_of(at), budgets.rate_of(at)) for at, name in enumerate(names)}


def floods() -> dict[str, int]:
    """The number of each kind."""
    return {
        "RESETS": budgets.FLOOD_RESETS, "REFUSALS": budgets.FLOOD_REFUSALS,
        "DENIALS": budgets.FLOOD_DENIALS,
        "PINGS": budgets.FLOOD_PINGS, "SETTINGS": budgets.FLOOD_SETTINGS,
        "EMPTY_FRAMES": budgets.FLOOD_EMPTY_FRAMES, "PRIORITIES": budgets.FLOOD_PRIORITIES,
        "WINDOW_UPDATES": budgets.FLOOD_WINDOW_UPDATES, "STRAYS": budgets.FLOOD_STRAYS,
        "CONTINUATIONS": budgets.FLOOD_CONTINUATIONS, "HEADERS": budgets.FLOOD_HEADERS,
        "SMALL_DATA": budgets.FLOOD_SMALL_DATA, "REPLIES": budgets.FLOOD_REPLIES,
    }


def words(int fault) -> str:
    """What a rule is."""
    return fault_words(fault).decode()


AUTHORITY, FLOOD, TOO_MANY, LAST = SF_AUTHORITY, SF_FLOOD, SF_TOO_MANY, SF_AUTHORITY


def code(int fault) -> int:
    """The error code of a rule."""
    return code_of(fault)


def sizes() -> tuple[int, int]:
    """Bytes of a session and of a stream."""
    return sizeof(Session), sizeof(H2Stream)


cdef class Decoder:
    """Header blocks in; the names and values of each out."""

    cdef HeaderDecoder decoder
    cdef Headers *headers

    def __cinit__(self):
        memset(&self.decoder, 0, sizeof(HeaderDecoder))
        self.decoder.most = hpack_table.MAX_TABLE
        self.headers = <Headers *>calloc(1, sizeof(Headers))

    def __dealloc__(self):
        free_decoder(&self.decoder)
        free(self.headers)

    def decode(self, bytes block):
        """Return the fields of a block, or the number of its HpackResult."""
        # in memory of its own, so that a sanitizer sees where it ends
        cdef char *copy = <char *>malloc(max(len(block), 1))
        cdef int result
        cdef uint32_t at
        memcpy(copy, <const char *>block, len(block))
        result = decode_block(&self.decoder, copy, len(block), self.headers)
        fields = [
            (self.headers.fields[at].name[:self.headers.fields[at].name_size],
             self.headers.fields[at].value[:self.headers.fields[at].value_size])
            for at in range(self.headers.count)
        ]
        free(copy)
        return fields if result == 0 else result

    @property
    def table(self):
        """(fields, bytes) of the dynamic table; None: it has none."""
        if self.decoder.table == NULL:
            return None
        return self.decoder.table.count, self.decoder.table.size


def encoded(bytes authority=None, status=None, fields=()) -> bytes:
    """The block of a CONNECT, or of an answer, with more fields."""
    cdef Bytes block
    cdef bytes name, value
    memset(&block, 0, sizeof(Bytes))
    if authority is not None:
        put_connect(&block, authority, len(authority))
    if status is not None:
        put_status(&block, status)
    for name, value in fields:
        put_field(&block, name, len(name), value, len(value))
    made = block.data[:block.size]
    free_bytes(&block)
    return made


cdef object probe_of(Session *session):
    return <object>session.owner


cdef void on_request(Session *session, H2Stream *stream, ConnectRequest *request) noexcept with gil:
    port = request.port
    where = (<char *>request.host)[:16], (port >> 8) | ((port & 0xFF) << 8)
    fields = [
        (request.headers.fields[at].name[:request.headers.fields[at].name_size],
         request.headers.fields[at].value[:request.headers.fields[at].value_size])
        for at in range(request.headers.count)
    ]
    probe_of(session).events.append(
        ("request", stream.id, request.authority[:request.authority_size], where, fields))


cdef void on_answer(Session *session, H2Stream *stream, int status, bint ended) noexcept with gil:
    cdef Headers *headers = session.scratch
    fields = [
        (headers.fields[at].name[:headers.fields[at].name_size],
         headers.fields[at].value[:headers.fields[at].value_size])
        for at in range(headers.count)
    ]
    probe_of(session).events.append(("answer", stream.id, status, bool(ended), fields))


cdef void on_readable(Session *session, H2Stream *stream) noexcept with gil:
    probe = probe_of(session)
    if probe.kills:
        probe.release(stream.id)
    elif probe.reads:
        probe.read(stream.id)
    else:
        if session.run_stream == stream and session.run_size:
            probe.events.append(("data", stream.id, session.run[:session.run_size]))
        probe.note_end(stream.id, stream.receive_ended)


cdef void on_reset(Session *session, H2Stream *stream, uint32_t code) noexcept with gil:
    probe = probe_of(session)
    probe.events.append(("reset", stream.id, code, stream.reset_why, bool(stream.receive_ended)))
    probe.release_if_over(stream.id)


cdef void on_writable(Session *session, H2Stream *stream) noexcept with gil:
    probe_of(session).events.append(("writable", stream.id, stream.waiting.size))


cdef void on_refused(Session *session, uint32_t id, int status, int why) noexcept with gil:
    probe_of(session).events.append(("refused", id, status, why))


cdef void on_goaway(Session *session, uint32_t last, uint32_t code, const char *debug,
                    size_t size) noexcept with gil:
    probe_of(session).events.append(("goaway", last, code, debug[:size]))


cdef void on_pong(Session *session) noexcept with gil:
    probe_of(session).events.append(("pong",))


cdef void on_settings(Session *session) noexcept with gil:
    probe_of(session).events.append(("settings",))


cdef SessionCalls calls = SessionCalls(
    on_request, on_answer, on_readable, on_reset, on_writable, on_refused, on_goaway, on_pong,
    on_settings)


cdef int extra_of_all = 0


def grown_by_all() -> int:
    """Bytes by which the windows of all sessions have grown."""
    return extra_of_all


cdef class SessionProbe:
    """A session whose calls become events.

    `reads`: streams are read as soon as something has come; `releases`: those that are over are
    released; `kills`: those on which something has come are.  `slices` has what reads have returned,
    as (stream, bytes)."""

    cdef Session session
    cdef Headers *scratch
    cdef public list events
    cdef public set ended
    cdef public list slices
    cdef public bint reads
    cdef public bint releases
    cdef public bint kills

    def __cinit__(self, *, bint server, int max_streams=1024, int streams_per_connection=100,
                  uint32_t stream_window=256 << 10, uint32_t connection_window=1 << 20,
                  double now=0.0, bint reads=True, bint releases=True):
        cdef SessionSettings settings
        settings.max_streams = max_streams
        settings.streams_per_connection = streams_per_connection
        settings.stream_window, settings.connection_window = stream_window, connection_window
        settings.extra_of_all = &extra_of_all
        self.events, self.ended = [], set()
        self.reads, self.releases, self.kills, self.slices = reads, releases, False, []
        self.scratch = <Headers *>calloc(1, sizeof(Headers))
        start_session(&self.session, server, &settings, &calls, self.scratch, <void *>self, now)

    def __dealloc__(self):
        end_session(&self.session)
        free(self.scratch)

    def receive(self, bytes data, double now=0.0) -> list:
        """Take bytes; return what was called meanwhile, successive bytes of a stream as one."""
        cdef char *copy = <char *>malloc(max(len(data), 1))
        memcpy(copy, <const char *>data, len(data))
        receive_frames(&self.session, copy, len(data), now)
        free(copy)
        return self.take_events()

    def take_events(self) -> list:
        """Return what was called."""
        taken = []
        for event in self.events:
            if event[0] == "data" and taken and taken[-1][:2] == event[:2]:
                taken[-1] = ("data", event[1], taken[-1][2] + event[2])
            else:
                taken.append(event)
        self.events = []
        return taken

    def take_output(self) -> bytes:
        """Return what is to be sent."""
        cdef char *data = NULL
        cdef size_t size = output_of(&self.session, &data)
        made = data[:size] if size else b""
        drop_output_of(&self.session)
        return made

    def peek_output(self) -> bytes:
        """Return what is to be sent, and leave it there."""
        cdef char *data = NULL
        cdef size_t size = output_of(&self.session, &data)
        return data[:size] if size else b""

    cdef H2Stream *stream(self, uint32_t id) except NULL:
        cdef H2Stream *found = find_stream(&self.session, id)
        if found == NULL:
            raise KeyError(id)
        return found

    def open(self, bytes authority, bytes extra=b""):
        """Return the new stream; None: there is no room."""
        cdef H2Stream *made = open_stream(
            &self.session, authority, len(authority), extra, len(extra), NULL)
        return None if made == NULL else made.id

    def answer(self, uint32_t id, int status, bytes extra=b"", bint end=False) -> int:
        result = answer_stream(&self.session, self.stream(id), status, extra, len(extra), end)
        if end and self.releases:
            self.release(id)
        return result

    def send(self, uint32_t id, bytes data) -> int:
        return send_data(&self.session, self.stream(id), data, len(data))

    def send_what_goes(self, uint32_t id, bytes data) -> int:
        """Send as much as `send` would at once, and let nothing wait.  Returns how many bytes."""
        return send_some(&self.session, self.stream(id), data, len(data))

    def finish(self, uint32_t id) -> int:
        result = finish_stream(&self.session, self.stream(id))
        self.release_if_over(id)
        return result

    def reset(self, uint32_t id, uint32_t code):
        reset_stream(&self.session, self.stream(id), code)
        if self.releases:
            self.release(id)

    def release(self, uint32_t id):
        release_stream(&self.session, self.stream(id))

    def read(self, uint32_t id):
        """Read all that has come of a stream; the events say what."""
        cdef char *data = NULL
        cdef H2Stream *found = self.stream(id)
        cdef ssize_t size
        while True:
            expected = bool(is_readable(&self.session, found))
            size = read_stream(&self.session, found, &data)
            assert (size != STREAM_NOT_NOW) == expected, (size, expected)
            if size <= 0:
                break
            assert bool(ends_here(found)) == (not found.unread and bool(found.receive_ended))
            self.events.append(("data", id, data[:size]))
            self.slices.append((id, size))
        self.note_end(id, size == 0)

    def read_some(self, uint32_t id, int times) -> list:
        """Read that often, or until nothing is there; return what came each time."""
        cdef char *data = NULL
        cdef ssize_t size
        pieces = []
        while len(pieces) < times:
            size = read_stream(&self.session, self.stream(id), &data)
            if size <= 0:
                break
            pieces.append(data[:size])
        return pieces

    def held_room(self, uint32_t id) -> int:
        """How much memory there is for what a stream holds."""
        return self.stream(id).held.room

    def note_end(self, uint32_t id, bint ended):
        """Note that all is read up to the end, the first time."""
        if ended and id not in self.ended:
            self.ended.add(id)
            self.events.append(("end", id))
        self.release_if_over(id)

    def consume(self, uint32_t id, size_t count, double now):
        """Count held bytes as read, the first ones, as `read_stream` counts all of them."""
        cdef H2Stream *found = self.stream(id)
        cdef uint32_t most = <uint32_t>min(count, <size_t>found.held.size)
        self.session.now = max(self.session.now, now)
        if most:
            note_read(&self.session, found, most)
            take(&found.held, most)
        self.release_if_over(id)

    def release_if_over(self, uint32_t id):
        cdef H2Stream *found = find_stream(&self.session, id)
        if found == NULL or not self.releases or found.unread:
            return
        if found.was_reset or (found.receive_ended and found.send_ended):
            self.release(id)

    def ping(self):
        send_ping(&self.session)

    def go_away(self, *, bint final):
        go_away(&self.session, final)

    def close(self, uint32_t code):
        close_session(&self.session, code)

    def lose(self):
        lose_session(&self.session)

    def trim(self):
        trim_session(&self.session)

    @property
    def broken(self):
        """(fault, code) of the rule that has ended it; None: it goes on."""
        if not self.session.broken_by:
            return None
        if self.session.broken_by < 4:
            return self.session.broken_by, self.session.broken_code
        assert self.session.broken_code == code_of(self.session.broken_by)
        return self.session.broken_by, self.session.broken_code

    @property
    def flood(self):
        return flood_of(self.session.broken_by)

    @property
    def room(self):
        return session_room(&self.session)

    @property
    def streams(self):
        return self.session.streams

    @property
    def open_streams(self):
        return self.session.open_streams

    @property
    def unread(self):
        return self.session.unread

    @property
    def slots(self):
        return self.session.slot_count

    @property
    def overfull(self):
        return bool(is_overfull(&self.session))

    @property
    def extra(self):
        """Bytes by which the windows of its streams have grown."""
        return self.session.extra

    @property
    def allowed(self):
        """How many streams the peer accepts; None: it hasn't said yet."""
        return self.session.peer_max_streams if self.session.settings_received else None

    @property
    def last_id(self):
        return self.session.last_id

    @last_id.setter
    def last_id(self, uint32_t id):
        self.session.last_id = id

    def windows_of_streams(self) -> dict[int, int]:
        """How many bytes may be sent on each open stream, as far as its own window goes."""
        cdef uint32_t at
        return {
            self.session.slots[at].id: self.session.slots[at].stream.send_window
            for at in range(self.session.slot_count)
            if self.session.slots[at].id and self.session.slots[at].stream.is_open
        }

    @property
    def output_room(self):
        return self.session.output.room

    @property
    def windows(self):
        """(to send, to receive) of the connection."""
        return self.session.send_window, self.session.receive_window

    def state(self, uint32_t id) -> dict:
        """What is known of a stream."""
        cdef H2Stream *found = self.stream(id)
        return {
            "send_window": found.send_window, "receive_window": found.receive_window,
            "waiting": found.waiting.size, "unread": found.unread, "open": bool(found.is_open),
            "send_ended": bool(found.send_ended), "receive_ended": bool(found.receive_ended),
            "answered": bool(found.is_answered), "reset": bool(found.was_reset),
            "unacknowledged": unacknowledged(&self.session, found),
        }

    def __contains__(self, uint32_t id):
        return find_stream(&self.session, id) != NULL
