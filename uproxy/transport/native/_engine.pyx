# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
# Over 400 lines, because one extension module has one table of OpenSSL's functions and one variable
# per thread: its three classes, which only translate for Python, can't be modules of their own.
"""Threads that accept, shake hands, dial and move bytes without the GIL, each with its own epoll.

They decide nothing.  `ListenerHandle.set_door_state` says what arrivals meet,
`ConnectionHandle.cache_route` where known callers go; whatever else is to be decided is asked.
`Core.take` returns in batches what was asked and what has happened, when `Core.fileno` is
readable.  All methods are called on one thread, the event loop's.  A worker touches no Python
object, but in `ask_verifier`, once for each leaf that isn't in the verify cache.

The pages, each of which needs only those before it, are listed in
tests/test_transport_native_pages.py; `types` has every structure, `connection` a connection's life.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.system cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLEXCLUSIVE, EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    allowed_moves, clock_of, control_process, epoll_ctl, epoll_event, eventfd, flag, long_get,
    pointer_set, pthread_cond_init, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
    word_add, word_get, word_set,
)
from uproxy.transport.native.openssl cimport (
    OPENSSL_FUNCTION_COUNT, openssl_functions, ossl_empty_name, ossl_small_key,
)
from uproxy.transport.native.presented cimport (
    EXCESS_COUNT, MAX_CHAIN, MAX_CHAIN_BYTES, MAX_CLIENT_HELLO, MAX_DEPTH, MAX_EXTENSIONS, MAX_KEY,
    MAX_NAME_PARTS, MAX_PARTS, MAX_REQUEST, MAX_TEXT, X_BYTES, X_CERTIFICATES, X_EXTENSIONS, X_KEY,
    X_MESSAGE, X_NAME, X_NOT_DER, X_PARTS, X_REQUEST, X_TEXT, Presented, read_presented,
)
from uproxy.transport.native.faults cimport fault_words, flood_name
from uproxy.transport.native.codes cimport (
    C_CUT, C_CUT_ALL, C_DIAL, C_DRAIN, C_HANDSHAKE, C_RELAY, C_RELEASE, C_RELEASE_LISTENER,
    C_RETIRE, C_STOP, C_WATCH_LOSS, E_ADMITTED, E_ARRIVED, E_CARRYING, E_CLOSED, E_HANDSHAKEN,
    E_OPENED, E_UPSTREAM_FAILED, E_UPSTREAM_READY, FAILURE_COUNT, F_AFTER_HANDSHAKE, F_CUT,
    F_EVICTED, F_EXCESS, F_FULL, F_HALF_CLOSED, F_HELD, F_HTTP2, F_IDLE, F_MEMORY, F_NONE,
    F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE, F_SHORT_HELLO, F_SLOTS, F_SOURCE_FULL, F_STALLED,
    F_STATUS, F_STREAM_REFUSED, F_STREAM_RESET, F_TIMEOUT, F_TLS, F_TRUNCATED, F_UNASKED,
    F_UNPROVEN, F_VERIFY, HASH_KEYS, K_LISTENER, LARGE_BATCH, MAX_OPTIONS,
    STATE_COUNT, S_ACCEPTED, S_ADMITTING, S_CARRYING, S_CLOSED, S_CLOSING, S_CONNECTING,
    S_HANDSHAKING_DOWNSTREAM, S_HANDSHAKING_UPSTREAM, S_OPENING_STREAM, S_RELAYING, V_ACCEPTED,
    V_DEFECT, V_REFUSED,
)
from uproxy.transport.native.alpn cimport choose_protocol
from uproxy.transport.native.types cimport (
    CachedRoute, Channel, Command, Connection, DoorState, Fault, LimitState, Listener,
    ReportQueue, Shared, TunnelLimits, VerifiedPeer, VerifyCache, Way, Worker,
)
from uproxy.transport.native.queues cimport (
    clear_bell, mark_decided, new_command, remove_report, ring_loop, send_command,
)
from uproxy.transport.native.verify_cache cimport (
    add_verified, drop_oldest_verified, release_verified,
)
from uproxy.transport.native.route_cache cimport (
    add_cached_route, find_cached_route, free_cached_route, hold_door_state, is_route_valid,
    release_door_state, release_listener,
)
from uproxy.transport.native.references cimport (
    endpoint_of, fill_captured, fill_limits, fill_setup, fill_target, fill_way, forget_context,
    forget_handshake, forget_refusal, leave_door_state, text_of,
)
from uproxy.transport.native.handshake cimport on_message
from uproxy.transport.native.offload cimport helpers_busy_since, stop_helpers
from uproxy.transport.native.accept cimport A_GONE, A_OTHERS, accept_for_worker, pause, port_of
from uproxy.transport.native.state cimport enter_state_by_loop, state_of
from uproxy.transport.native.stream cimport fill_stream_calls
from uproxy.transport.native.spoken cimport take_spoken
from uproxy.transport.native.arrival cimport words_of_unnamed
from uproxy.transport.native.carrying cimport fill_session_calls
from uproxy.transport.native.worker cimport free_worker, new_worker, work

import os
import threading

from uproxy.lifecycle import MOVES, State
from uproxy.spiffe import presented

ARRIVED = E_ARRIVED
HANDSHAKEN = E_HANDSHAKEN
ADMITTED = E_ADMITTED
UPSTREAM_READY = E_UPSTREAM_READY
UPSTREAM_FAILED = E_UPSTREAM_FAILED
OPENED = E_OPENED
CLOSED = E_CLOSED
CARRYING = E_CARRYING

STATES = {
    State.ACCEPTED: S_ACCEPTED,
    State.HANDSHAKING_DOWNSTREAM: S_HANDSHAKING_DOWNSTREAM,
    State.CARRYING: S_CARRYING,
    State.ADMITTING: S_ADMITTING,
    State.CONNECTING: S_CONNECTING,
    State.HANDSHAKING_UPSTREAM: S_HANDSHAKING_UPSTREAM,
    State.OPENING_STREAM: S_OPENING_STREAM,
    State.RELAYING: S_RELAYING,
    State.CLOSING: S_CLOSING,
    State.CLOSED: S_CLOSED,
}

FAILURES = {
    F_NONE: "none",
    F_CUT: "cut",
    F_OS: "os",
    F_TLS: "tls",
    F_VERIFY: "verify",
    F_TIMEOUT: "timeout",
    F_IDLE: "idle",
    F_HALF_CLOSED: "half_closed",
    F_SLOTS: "slots",
    F_NO_HELLO: "no_hello",
    F_SHORT_HELLO: "short_hello",
    F_SHORT_HANDSHAKE: "short_handshake",
    F_TRUNCATED: "truncated",
    F_UNPROVEN: "unproven",
    F_MEMORY: "memory",
    F_AFTER_HANDSHAKE: "after_handshake",
    F_UNASKED: "unasked",
    F_FULL: "full",
    F_SOURCE_FULL: "source_full",
    F_EVICTED: "evicted",
    F_STALLED: "stalled",
    F_EXCESS: "excess",
    F_STATUS: "status",
    F_STREAM_REFUSED: "stream_refused",
    F_STREAM_RESET: "stream_reset",
    F_HTTP2: "http2",
    F_HELD: "held",
}


def differing():
    """Return the C numbers without a Python name, and the names without a number, by what they are
    (`state`, `failure`, …).  It is empty if both languages agree."""
    excesses = {
        "CERTIFICATES": X_CERTIFICATES, "BYTES": X_BYTES, "PARTS": X_PARTS, "TEXT": X_TEXT,
        "KEY": X_KEY, "MESSAGE": X_MESSAGE, "REQUEST": X_REQUEST, "NOT_DER": X_NOT_DER,
        "NAME": X_NAME, "EXTENSIONS": X_EXTENSIONS,
    }
    bounds = {
        "MAX_CHAIN": MAX_CHAIN, "MAX_CHAIN_BYTES": MAX_CHAIN_BYTES, "MAX_PARTS": MAX_PARTS,
        "MAX_TEXT": MAX_TEXT, "MAX_KEY": MAX_KEY, "MAX_REQUEST": MAX_REQUEST,
        "MAX_NAME_PARTS": MAX_NAME_PARTS, "MAX_DEPTH": MAX_DEPTH,
        "MAX_EXTENSIONS": MAX_EXTENSIONS, "MAX_CLIENT_HELLO": MAX_CLIENT_HELLO,
    }
    found = {
        "state": {*State} ^ STATES.keys(),
        "state's number": {*range(STATE_COUNT)} ^ {*STATES.values()},
        "failure": {*range(FAILURE_COUNT)} ^ FAILURES.keys(),
        "excess": {(each.name, each.value) for each in presented.Excess} ^ {*excesses.items()},
        "excess's number": {*range(1, EXCESS_COUNT)} ^ {*excesses.values()},
        "bound": {each for each in vars(presented).items() if each[0].startswith("MAX_")}
        ^ {*bounds.items()},
    }
    return {what: names for what, names in found.items() if names}

if differing():
    raise ImportError(f"the engine's C and Python differ in {differing()}")

OPENSSL_FUNCTIONS = tuple(
    openssl_functions[at].name.decode() for at in range(OPENSSL_FUNCTION_COUNT))

CHOOSE_PROTOCOL = <uintptr_t>&choose_protocol
ON_MESSAGE = <uintptr_t>&on_message
READ_PRESENTED = <uintptr_t>&read_presented

_judge = None  # set by Core


cdef void allow_moves():
    """Copy lifecycle.MOVES to where `enter_state` looks, in builds that check moves."""
    for before, states in MOVES.items():
        for after in states:
            allowed_moves[<int>STATES[before]] |= 1 << <int>STATES[after]
    # of a tunnel that the pool has dialled, which is nobody's connection
    allowed_moves[<int>S_HANDSHAKING_UPSTREAM] |= 1 << <int>S_CARRYING

allow_moves()


cdef int take_addresses(dict addresses, uintptr_t key, uintptr_t name) except -1:
    """Fill the table of OpenSSL's functions; `addresses` has each of OPENSSL_FUNCTIONS."""
    global ossl_small_key, ossl_empty_name
    ossl_small_key, ossl_empty_name = <void *>key, <void *>name
    for at in range(OPENSSL_FUNCTION_COUNT):
        function = openssl_functions[at].name.decode()
        openssl_functions[at].place[0] = <void *><uintptr_t>addresses[function]
    return 0


cdef void ask_verifier(Channel *channel, Presented *them) noexcept with gil:
    """Have Python verify a peer's certificates, and set the channel's verdict: accepted, and
    cached; refused, by the exception that says why; or a defect."""
    cdef VerifiedPeer *verified_peer
    cdef int at
    try:
        chain = tuple([(<char *>them.ders[at])[:them.sizes[at]] for at in range(them.count)])
        error, refused, verdict, expires = _judge(<object>channel.tls_setup.context, chain)
        if error == 0:
            verified_peer = add_verified(
                &channel.worker.shared.verify_cache, them.ders[0], them.sizes[0],
                channel.tls_setup.trust,
                verdict, expires)
            if verified_peer == NULL:
                raise MemoryError
            channel.verified_peer = verified_peer
            channel.verdict, channel.x509_error = V_ACCEPTED, 0
            return
    except BaseException as defect:
        error, refused, verdict = 1, False, defect
    forget_refusal(channel)
    Py_INCREF(verdict)
    channel.refused_with = <PyObject *>verdict
    channel.x509_error = error
    channel.verdict = V_REFUSED if refused else V_DEFECT


cdef void share_refusal(Channel *refused, Channel *channel) noexcept with gil:
    """Let a side that waited for a tunnel have the exception that refused the tunnel's peer."""
    forget_refusal(channel)
    Py_INCREF(<object>refused.refused_with)
    channel.refused_with = refused.refused_with


def words_of(int why):
    """Return the rule of HTTP/2 that a peer has broken, in words, and of what it has sent too much,
    as metrics call it (or ""); `why` is the number that `failure` has returned."""
    return fault_words(why).decode(), flood_name(why).decode()


def prctl(int option, unsigned long value):
    """Do prctl(2), with zeros for its other arguments; return its errno, or 0 if it was done."""
    cdef unsigned long no = 0  # the kernel reads all its bits
    return errno if control_process(option, value, no, no, no) else 0


cdef class Core:
    """The threads, what they share, and the queue of their reports."""

    cdef Shared *shared
    cdef list threads
    cdef object make_handle

    def __cinit__(self):
        self.shared = <Shared *>calloc(1, sizeof(Shared))
        if self.shared == NULL:
            raise MemoryError
        self.shared.reports.bell = -1

    def __init__(self, int threads, dict addresses, stand_ins, options, judge, make_handle):
        """`stand_ins` (`libssl.stand_ins`) replace what a peer's certificate needn't keep;
        `options` are (level, name, value) for TCP sockets that are dialled; `judge`
        (`libssl.judge`) verifies a peer's certificates; `make_handle` makes a ConnectionHandle,
        given the listener's state (`set_door_state`), when a connection is first reported."""
        global _judge
        cdef Shared *shared = self.shared
        cdef int at
        _judge, self.make_handle = judge, make_handle
        take_addresses(addresses, stand_ins[0], stand_ins[1])
        if len(options) > MAX_OPTIONS:
            raise ValueError("too many socket options")
        for at, (level, name, value) in enumerate(options):
            shared.options[at].level, shared.options[at].name = level, name
            shared.options[at].value = value
        shared.option_count = len(options)
        shared.ask_verifier, shared.share_refusal = ask_verifier, share_refusal
        fill_stream_calls(&shared.stream_calls)
        fill_session_calls(&shared.session_calls)
        for at in range(5):
            shared.limits.keys[at] = int.from_bytes(os.urandom(8), "big")
        for at in range(HASH_KEYS):
            shared.verify_cache.keys[at] = int.from_bytes(os.urandom(8), "big")
        pthread_mutex_init(&shared.reports.lock, NULL)
        pthread_mutex_init(&shared.limits.lock, NULL)
        pthread_mutex_init(&shared.verify_cache.lock, NULL)
        pthread_mutex_init(&shared.helpers.lock, NULL)
        pthread_mutex_init(&shared.helpers.verifying, NULL)
        pthread_cond_init(&shared.helpers.changed, NULL)
        shared.reports.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if shared.reports.bell < 0:
            raise OSError(errno, "no eventfd for the engine")
        shared.workers = <Worker **>calloc(threads, sizeof(void *))
        if shared.workers == NULL:
            raise MemoryError
        for at in range(threads):
            shared.workers[at] = new_worker(shared)
            shared.count += 1
        self.threads = [
            threading.Thread(target=self._run, args=(at,), name=f"uproxy-{at}", daemon=True)
            for at in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, int at):
        """The main function of the thread of worker `at`."""
        cdef Worker *worker = self.shared.workers[at]
        with nogil:
            work(worker)

    def fileno(self):
        """Return a descriptor that is readable when `take` has something."""
        return self.shared.reports.bell

    def set_limits(self, int connections, int per_source, int handshakes):
        """Set how many connections there may be at once, how many from one source (0: no limit),
        and how many handshakes in flight."""
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        word_set(&limits.most, connections)
        limits.most_per_source = per_source
        limits.most_slots = handshakes
        pthread_mutex_unlock(&limits.lock)

    def refused(self):
        """Return how many arrivals each limit has refused: connections, per source, handshakes."""
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        counts = limits.full, limits.source_full, limits.no_slot
        pthread_mutex_unlock(&limits.lock)
        return counts

    def pooled_tunnels(self):
        """Return how many tunnels that the threads have dialled are there."""
        return word_get(&self.shared.pooled_tunnels)

    def retire(self, uint64_t plan):
        """Have no stream opened any more on tunnels that were dialled with a plan (`Way`)."""
        cdef Command *command
        cdef int at
        for at in range(self.shared.count):
            command = new_command(C_RETIRE, NULL)
            if command == NULL:
                raise MemoryError
            command.plan = plan
            send_command(self.shared.workers[at], command)

    def alive(self):
        """Return how many connections haven't been released."""
        return word_get(&self.shared.alive)

    def busy_since(self):
        """Return when the oldest turn that still runs began (monotonic seconds); None if none runs,
        0.0 if a thread has ended."""
        cdef int at
        began = helpers_busy_since(&self.shared.helpers)
        since = [began / 1000] if began else []
        for at in range(len(self.threads)):
            if not self.threads[at].is_alive():
                return 0.0
            began = long_get(&self.shared.workers[at].busy_since)
            if began:
                since.append(began / 1000)
        return min(since, default=None)

    def take(self, int most):
        """Return what was asked or has happened since the last call: `(handle, events)` for each
        connection, `most` at most.  `events` are bits of ARRIVED … CLOSED.  If there are more,
        `fileno` stays readable."""
        cdef ReportQueue *reports = &self.shared.reports
        cdef Connection *connection
        cdef int events = 0
        taken = []
        clear_bell(reports.bell)
        pthread_mutex_lock(&reports.lock)
        reports.rung = False
        if reports.waiting >= LARGE_BATCH:
            reports.last_large_batch = clock_of(CLOCK_MONOTONIC)
        pthread_mutex_unlock(&reports.lock)
        while len(taken) < most:
            pthread_mutex_lock(&reports.lock)
            connection = reports.first
            if connection != NULL:
                events = remove_report(reports, connection)
            pthread_mutex_unlock(&reports.lock)
            if connection == NULL:
                return taken
            taken.append((self._handle_of(connection), events))
        ring_loop(reports)
        return taken

    cdef ConnectionHandle _handle_of(self, Connection *connection):
        """Return the connection's handle, which is made for its first report."""
        cdef ConnectionHandle handle
        if connection.handle == NULL:
            carrier = None
            if connection.carried_by != NULL:
                carrier = self._handle_of(connection.carried_by)  # its end is reported later
            handle = self.make_handle(
                <object>connection.door_state.python, carrier, bool(connection.is_pooled))
            handle.connection, handle.core = connection, self
            Py_INCREF(handle)
            connection.handle = <PyObject *>handle
        return <ConnectionHandle>connection.handle

    def cut_all(self):
        """Reset each connection; one that is on its way between two threads escapes."""
        self._post_to_all(C_CUT_ALL, NULL)

    def stop(self):
        """End the threads; each handle must have been released."""
        cdef int at
        self._post_to_all(C_STOP, NULL)
        with nogil:
            stop_helpers(&self.shared.helpers)
        for thread in self.threads:
            thread.join()
        for at in range(len(self.threads)):
            free_worker(self.shared.workers[at])
        self.threads.clear()
        self.shared.count = 0
        while self.shared.verify_cache.count:
            release_verified(
                &self.shared.verify_cache, drop_oldest_verified(&self.shared.verify_cache))
        close(self.shared.reports.bell)
        self.shared.reports.bell = -1

    cdef _post_to_all(self, int kind, Listener *listener):
        """Send each worker a command about a listener, or about none (NULL)."""
        cdef int at
        for at in range(self.shared.count):
            self._post(self.shared.workers[at], kind, listener)

    cdef _post(self, Worker *worker, int kind, Listener *listener):
        cdef Command *command = new_command(kind, NULL)
        if command == NULL:
            raise MemoryError
        command.listener = listener
        send_command(worker, command)

    def __dealloc__(self):
        if self.shared != NULL and self.shared.count == 0:  # otherwise threads have it
            free(self.shared.workers)
            free(self.shared)


cdef class ListenerHandle:
    """A listening socket from which all threads accept."""

    cdef Core core
    cdef Listener *listener

    def __cinit__(self, Core core, int fd):
        self.listener = <Listener *>calloc(1, sizeof(Listener))
        if self.listener == NULL:
            raise MemoryError
        pthread_mutex_init(&self.listener.lock, NULL)
        self.core = core
        self.listener.kind, self.listener.fd = K_LISTENER, fd
        self.listener.held = 1 + core.shared.count
        self.listener.paused, self.listener.port = True, port_of(fd)

    def set_door_state(self, state, setup, bint ask, bint tls, double limit, tunnels, captured):
        """Set how connections begin from now on, without a cached route.  `make_handle` gets
        `state`.  If `ask`, each is reported with ARRIVED at once.  If `tls`, it makes a handshake
        as `setup`, a TlsSetup, says; without one it is reported with ARRIVED at its first
        byte.  `limit` is the handshake's, in seconds; 0: none.  `tunnels`: a TunnelLimits, or None:
        there are none.  `captured`: a `_engine.Captured`, or None: nothing is captured."""
        cdef DoorState *door_state = <DoorState *>calloc(1, sizeof(DoorState))
        if door_state == NULL:
            raise MemoryError
        pthread_mutex_init(&door_state.lock, NULL)
        Py_INCREF(state)
        door_state.python, door_state.held = <PyObject *>state, 1
        door_state.ask, door_state.tls, door_state.limit = ask, tls, limit
        fill_captured(door_state, captured)
        fill_setup(&door_state.downstream, setup)
        fill_limits(&door_state.tunnels, tunnels)
        self._exchange(door_state)

    cdef _exchange(self, DoorState *door_state):
        """Have streams and connections arrive under another DoorState, or (NULL) under none."""
        cdef DoorState *before
        pthread_mutex_lock(&self.listener.lock)
        before = self.listener.door_state
        pointer_set(<void **>&self.listener.door_state, door_state)
        pthread_mutex_unlock(&self.listener.lock)
        if before != NULL:
            release_door_state(before)

    def drain(self):
        """Let the tunnels of the listener's callers end with their last streams."""
        self.core._post_to_all(C_DRAIN, self.listener)

    def resume(self):
        """Accept, at first or after a pause."""
        cdef epoll_event event
        cdef int at, error = 0
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        event.data.ptr = self.listener
        pthread_mutex_lock(&self.listener.lock)
        if self.listener.paused and not self.listener.closed:
            self.listener.paused = False
            for at in range(self.core.shared.count):
                if epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_ADD,
                             self.listener.fd, &event) != 0:
                    error = errno
        pthread_mutex_unlock(&self.listener.lock)
        if error:  # a thread would never accept: all again later
            pause(self.core.shared, self.listener, error)

    def shortage(self):
        """Return the errno for which accepting has paused since the last call; 0: it hasn't."""
        cdef int error
        pthread_mutex_lock(&self.listener.lock)
        error, self.listener.shortage = self.listener.shortage, 0
        pthread_mutex_unlock(&self.listener.lock)
        return error

    def undecided(self):
        """Return how many arrivals are neither admitted nor refused."""
        return word_get(&self.listener.undecided)

    def close(self, int most):
        """Accept the connections that wait in the kernel's queue, `most` at most, and none later:
        the socket may then be closed.  No cached route is used any more.  Streams arrive until
        `forget`, under the last `set_door_state`; tunnels end with those that they have."""
        cdef Listener *listener = self.listener
        cdef Connection *connection = NULL
        cdef int at, result, error = 0
        if listener.closed:
            return
        for at in range(most):
            result = accept_for_worker(listener, self.core.shared, NULL, &connection, &error)
            if result != A_OTHERS and result != A_GONE:
                break
        pthread_mutex_lock(&listener.lock)
        word_set(<int *>&listener.closed, True)
        if not listener.paused:
            for at in range(self.core.shared.count):
                epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
        pthread_mutex_unlock(&listener.lock)
        self.core._post_to_all(C_DRAIN, listener)
        self.core._post_to_all(C_RELEASE_LISTENER, listener)

    def forget(self):
        """Have nobody decide about streams any more, after `close`."""
        self._exchange(NULL)

    def __dealloc__(self):
        if self.listener != NULL:
            self._exchange(NULL)
            release_listener(self.listener)


cdef class ConnectionHandle:
    """One connection, for the loop, from its first report to `release`."""

    cdef Connection *connection
    cdef Core core
    cdef int last_state
    cdef public flag inbound, was_reported, is_over, shares_tls  # the loop's own notes, in bytes
    cdef int64_t last_counts[2]

    @property
    def state_number(self):
        """The state's number in STATES; after the end that of the state before."""
        cdef int state
        if self.connection == NULL:
            return self.last_state
        state = state_of(self.connection)
        return self.connection.ended_in if state == S_CLOSED else state

    def enter_state(self, int state):
        """Enter a state, while the connection waits for the loop."""
        enter_state_by_loop(self.connection, state)

    def count(self, int side):
        """Return the application bytes received from downstream (0) or upstream (1)."""
        if self.connection == NULL:
            return self.last_counts[side]
        return long_get(&self.connection.counts[side])

    def source(self):
        """Return the caller's address: (16 bytes of host, port), or None on a unix socket."""
        return endpoint_of(&self.connection.source)

    def local(self):
        """Return the address at which it arrived, as `source` does."""
        return endpoint_of(&self.connection.local)

    def in_clear(self):
        """Return whether it makes no handshake, though others at its door do."""
        return self.connection.in_clear

    def meant(self):
        """Return the address that a CONNECT names or a captured connection was made to; or None."""
        return endpoint_of(&self.connection.meant)

    def take_spoken(self):
        """Return, once, what a stream's CONNECT says of a caller: the values of `x-uproxy-caller`,
        and those of `x-uproxy-proof`, in the order received.  None: it says nothing."""
        return take_spoken(self.connection)

    def why_unnamed(self):
        """Return why a request on a tunnel was refused without a stream, in words, and the error
        code of that (RFC 9113 §7); None: it wasn't, or there was no memory."""
        return words_of_unnamed(self.connection.unnamed)

    def stream_count(self):
        """Return how many streams a connection carries now."""
        return 0 if self.connection == NULL else word_get(&self.connection.streams)

    def has_shared_handshake(self):
        """Whether its handshake is that of a tunnel which wasn't made for it."""
        return bool(self.connection.shares_tls)

    def dialled_from_endpoint(self):
        """Return our own address on the upstream connection, as `source` does; None where it was
        never connected, too."""
        return endpoint_of(&self.connection.dialled_from)

    def lasted(self):
        """Return the seconds from its acceptance to its end, or until now."""
        cdef double until = self.connection.finished_at or clock_of(CLOCK_MONOTONIC)
        return until - self.connection.accepted_at

    def cached_route(self):
        """Return the cached route that it uses; None if the loop is to give one."""
        if self.connection.cached_route == NULL:
            return None
        return <object>self.connection.cached_route.route

    def mark_decided(self):
        """Note that the connection was admitted: `undecided` no longer counts it."""
        mark_decided(self.connection)

    def handshake_downstream(self, downstream, double limit):
        """Shake hands with downstream within `limit` seconds.  HANDSHAKEN, ADMITTED or CLOSED
        follows."""
        self._use(0, downstream)
        self._post(new_command(C_HANDSHAKE, self.connection), limit, 0)

    def watch_loss(self):
        """Have the connection ended if the downstream side is reset from now on."""
        self._post(new_command(C_WATCH_LOSS, self.connection), 0, 0)

    def dial(self, bytes target, upstream, double limit, double handshake_limit, way=None):
        """Dial `target` (a packed sockaddr), and shake hands as `upstream` says; None: no TLS.
        With a `way` (Way) open a stream on a tunnel to `target` instead, which may be there
        already.  Limits in seconds.  UPSTREAM_READY, UPSTREAM_FAILED or CLOSED follows."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        fill_target(&command.target, &command.target_size, target)
        if way is not None:
            command.way = <Way *>calloc(1, sizeof(Way))
            if command.way == NULL:
                free(command)
                raise MemoryError
            fill_way(command.way, way)
        self._use(1, upstream)
        if way is not None and upstream is not None:
            Py_INCREF(upstream[0])  # for the tunnel, if one is dialled
            self.connection.sides[1].channel.owned_contexts += 1
        self._post(command, limit, handshake_limit)

    def dial_connected(self, int fd, upstream, double handshake_limit):
        """Go on as after `dial`, with a connected socket, which the thread owns from now on."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        command.fd = fd
        self._use(1, upstream)
        self._post(command, 0, handshake_limit)

    def relay(self, bytes preface, double idle, double half_close):
        """Move bytes, `preface` first to upstream; the limits are seconds, 0: none.  CLOSED
        follows."""
        cdef Command *command = new_command(C_RELAY, self.connection)
        if command != NULL and preface:
            command.data = <char *>malloc(len(preface))
            if command.data == NULL:
                free(command)
                command = NULL
            else:
                memcpy(command.data, <char *>preface, len(preface))
                command.size = len(preface)
        self._post(command, idle, half_close)

    def cache_route(self, route, bint by_source, bint by_meant, bint by_local, bytes target,
                    upstream, way, time_limits):
        """Have later callers that show the same leaf (and, if `by_source`, come from the same host,
        if `by_meant`, are meant for the same address, if `by_local`, arrive at the same
        address) get `route` without asking; `target`, `upstream` and
        `way` are as in `dial`, `time_limits` connect, handshake, idle and half_close, in seconds.
        False if there are too many cached routes."""
        cdef CachedRoute *cached_route
        cdef uint64_t serial = 0
        if self.connection.sides[0].channel.verified_peer != NULL:
            serial = self.connection.sides[0].channel.verified_peer.serial
        if (not is_route_valid(self.connection)
                or find_cached_route(self.connection, serial) != NULL):
            return True
        cached_route = <CachedRoute *>calloc(1, sizeof(CachedRoute))
        if cached_route == NULL:
            raise MemoryError
        Py_INCREF(route)
        cached_route.route, cached_route.serial = <PyObject *>route, serial
        cached_route.by_source, cached_route.by_meant = by_source, by_meant
        cached_route.meant, cached_route.by_local = self.connection.meant, by_local
        cached_route.local = self.connection.local
        memcpy(cached_route.host, self.connection.source.host, 16)
        fill_setup(&cached_route.upstream, upstream)
        fill_target(&cached_route.target, &cached_route.target_size, target)
        if way is not None:
            fill_way(&cached_route.way, way)
        cached_route.connect, cached_route.handshake = time_limits[:2]
        cached_route.idle, cached_route.half_close = time_limits[2:]
        if add_cached_route(self.connection.door_state, cached_route):
            return True
        free_cached_route(cached_route)
        return False

    def release_door_state(self):
        """Release the DoorState under which an open connection arrived, and the TLS contexts of its
        handshakes."""
        leave_door_state(self.connection)

    def take_door_state(self):
        """Hold the listener's DoorState for a connection that has released its own, and waits for
        the loop.  False: the listener has none any more."""
        return hold_door_state(self.connection)

    def cut(self, int status=0):
        """Reset both sides.  CLOSED follows.  A CONNECT without an answer gets this HTTP status;
        -1: none, but a reset that says that it may be sent elsewhere."""
        cdef Command *command = new_command(C_CUT, self.connection)
        if command != NULL:
            command.result = status
        self._post(command, 0, 0)

    def failure(self):
        """Return why it ended, after CLOSED: (one of FAILURES, side, errno or Excess, OpenSSL's
        error or how much there was)."""
        return _fault(&self.connection.fault)

    def candidate_failure(self):
        """Return the same of a candidate, after UPSTREAM_FAILED."""
        return _fault(&self.connection.candidate_fault)

    def verdict(self, int side):
        """Return the verified peer of a side, or the exception that refused it; or None."""
        cdef Channel *which = &self.connection.sides[side].channel
        if which.verdict == V_ACCEPTED and which.verified_peer != NULL:
            return <object>which.verified_peer.peer
        return None if which.refused_with == NULL else <object>which.refused_with

    def facts(self):
        """Return version, cipher, group and seconds of the last handshake that succeeded; None
        without one."""
        if self.connection.version == NULL:
            return None
        return (text_of(self.connection.version), text_of(self.connection.cipher),
                text_of(self.connection.group), self.connection.handshake_seconds)

    def release(self):
        """Give the memory back, after CLOSED.  Only the state and the counts can be read then."""
        cdef Connection *connection = self.connection
        cdef VerifyCache *verify_cache = &self.core.shared.verify_cache
        self.last_state = connection.ended_in
        self.last_counts[0], self.last_counts[1] = connection.counts[0], connection.counts[1]
        forget_handshake(&connection.sides[0].channel, verify_cache)
        forget_handshake(&connection.sides[1].channel, verify_cache)
        if connection.door_state != NULL:
            release_door_state(connection.door_state)
        release_listener(connection.listener)
        self._post(new_command(C_RELEASE, connection), 0, 0)
        self.connection = NULL
        word_add(&self.core.shared.alive, -1)
        Py_DECREF(self)

    cdef _use(self, int side, handshake):
        """Have the side's next handshake made with this TlsSetup; None: no TLS."""
        cdef Channel *which = &self.connection.sides[side].channel
        forget_handshake(which, &self.core.shared.verify_cache)
        fill_setup(&which.tls_setup, handshake)
        which.owned_contexts = 0 if handshake is None else 1

    cdef _post(self, Command *command, double limit, double other_limit):
        if command == NULL:
            raise MemoryError
        command.limit, command.other_limit = limit, other_limit
        send_command(self.connection.worker, command)


cdef _fault(Fault *fault):
    return FAILURES[fault.what], fault.side, fault.error, fault.code
