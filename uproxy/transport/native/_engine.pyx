# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""Threads that accept, shake hands, dial and move bytes without the GIL, each with its own epoll.

It decides nothing.  A door's terms (`ListenerHandle.offer`) say what arrivals meet, routes that stand
(`ConnectionHandle.let_stand`) where known callers go; whatever else is to be decided is asked: `Core.take`
says what was asked and what has come of it, in batches, when `Core.fileno` is readable.  All
methods are called on one thread, the event loop's.  No Python object is touched by a worker,
but in `ask_verifier`, once for a leaf that isn't in the table.

The pages, from the bottom up: `system`, `openssl` (calls), `alpn`, `parts` (every structure), `inbox`,
`deadlines`, `gate` (limits), `verified` (leaves), `standing` (terms and routes), `side` (a socket
and its TLS), `hello`, `presented` (certificates), `ending`, `relay`, `shake`, `offload`, `upstream`, `downstream`, `worker` (a thread's
turn).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC
from posix.unistd cimport close

from uproxy.transport.native.alpn cimport choose_protocol
from uproxy.transport.native.queues cimport new_command, mark_decided, remove_report, send_command, ring_loop, clear_bell
from uproxy.transport.native.accept cimport A_GONE, A_ONE, pause, accept_for_worker
from uproxy.transport.native.offload cimport helpers_busy_since, stop_helpers
from uproxy.transport.native.openssl cimport OPENSSL_FUNCTION_COUNT, openssl_functions, ossl_small_key
from uproxy.transport.native.types cimport (
    LARGE_BATCH, C_CUT, C_CUT_ALL, C_DIAL, C_RELEASE_LISTENER, C_RELAY, C_RELEASE, C_HANDSHAKE, C_STOP,
    C_WATCH_LOSS, EXCESS_COUNT, E_ADMITTED, E_ARRIVED, E_CLOSED, E_UPSTREAM_FAILED, E_UPSTREAM_READY,
    E_OPENED, E_HANDSHAKEN, FAILURE_COUNT, F_AFTER_HANDSHAKE, F_CUT, F_EVICTED, F_EXCESS, F_FULL,
    F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE,
    F_SHORT_HELLO, F_SLOTS, F_SOURCE_FULL, F_TIMEOUT, F_TLS, F_TRUNCATED, F_UNASKED,
    F_UNPROVEN, F_VERIFY, HASH_KEYS, K_BELL, K_LISTENER, MAX_CHAIN, MAX_CHAIN_BYTES, MAX_CLIENT_HELLO, MAX_DEPTH,
    MAX_EXTENSIONS, MAX_KEY, MAX_NAME_PARTS, MAX_PARTS,
    MAX_REQUEST, MAX_TEXT, MAX_OPTIONS, STATE_COUNT, P_ACCEPTED, P_ADMITTING, P_CLOSED,
    P_CLOSING, P_CONNECTING, P_HANDSHAKING_UPSTREAM, P_HANDSHAKING_DOWNSTREAM, P_RELAYING, V_ACCEPTED,
    V_DEFECT, V_NONE, V_REFUSED, X_BYTES, X_CERTIFICATES, X_EXTENSIONS, X_KEY, X_MESSAGE, X_NAME, X_NOT_DER, X_PARTS,
    X_REQUEST, X_TEXT,
    Command, Connection, VerifiedPeer, Fault, LimitState, TlsSetup, ReportQueue, Listener, Endpoint, Presented, Shared,
    Side, CachedRoute, VerifyCache, DoorState, Worker,
)
from uproxy.transport.native.presented cimport read_presented
from uproxy.transport.native.handshake cimport on_message
from uproxy.transport.native.route_cache cimport (
    add_cached_route, find_cached_route, free_cached_route, listener_release, is_route_valid, release_door_state,
)
from uproxy.transport.native.system cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLEXCLUSIVE, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
    EPOLL_CTL_DEL, clock_of, epoll_create1, epoll_ctl, epoll_event, eventfd, long_get, pointer_set,
    pthread_cond_init, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
    sockaddr_storage, word_add, word_get, word_set,
)
from uproxy.transport.native.verify_cache cimport release_verified, add_verified, drop_oldest_verified
from uproxy.transport.native.worker cimport work

import os
import threading

from uproxy.lifecycle import State
from uproxy.spiffe import presented

ARRIVED = E_ARRIVED
HANDSHAKEN = E_HANDSHAKEN
ADMITTED = E_ADMITTED
UPSTREAM_READY = E_UPSTREAM_READY
UPSTREAM_FAILED = E_UPSTREAM_FAILED
OPENED = E_OPENED
CLOSED = E_CLOSED

STATES = {
    State.ACCEPTED: P_ACCEPTED,
    State.HANDSHAKING_DOWNSTREAM: P_HANDSHAKING_DOWNSTREAM,
    State.ADMITTING: P_ADMITTING,
    State.CONNECTING: P_CONNECTING,
    State.HANDSHAKING_UPSTREAM: P_HANDSHAKING_UPSTREAM,
    State.RELAYING: P_RELAYING,
    State.CLOSING: P_CLOSING,
    State.CLOSED: P_CLOSED,
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
    F_EXCESS: "excess",
}


def differing():
    """What the C numbers and the Python names above them don't have in common, by what it is."""
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
        "phase": {*range(STATE_COUNT)} ^ {*STATES.values()},
        "failure": {*range(FAILURE_COUNT)} ^ FAILURES.keys(),
        "excess": {(each.name, each.value) for each in presented.Excess} ^ {*excesses.items()},
        "excess's number": {*range(1, EXCESS_COUNT)} ^ {*excesses.values()},
        "bound": {each for each in vars(presented).items() if each[0].startswith("MAX_")}
        ^ {*bounds.items()},
    }
    return {what: names for what, names in found.items() if names}

if differing():
    raise ImportError(f"the engine's C and Python differ in {differing()}")

OPENSSL_FUNCTIONS = tuple(openssl_functions[at].name.decode() for at in range(OPENSSL_FUNCTION_COUNT))

CHOOSE_PROTOCOL = <uintptr_t>&choose_protocol
ON_MESSAGE = <uintptr_t>&on_message
READ_PRESENTED = <uintptr_t>&read_presented

_judge = None  # set by Core


cdef int take_addresses(dict addresses, uintptr_t small_key) except -1:
    """Fill OpenSSL's table; `addresses` has each of OPENSSL_FUNCTIONS."""
    global ossl_small_key
    ossl_small_key = <void *>small_key
    for at in range(OPENSSL_FUNCTION_COUNT):
        openssl_functions[at].place[0] = <void *><uintptr_t>addresses[openssl_functions[at].name.decode()]
    return 0


cdef void ask_verifier(Side *side, Presented *them) noexcept with gil:
    cdef VerifiedPeer *verified_peer
    cdef int at
    try:
        chain = tuple([(<char *>them.ders[at])[:them.sizes[at]] for at in range(them.count)])
        error, refused, verdict, expires = _judge(<object>side.tls_setup.context, chain)
        if error == 0:
            verified_peer = add_verified(
                &side.connection.worker.shared.verify_cache, them.ders[0], them.sizes[0], side.tls_setup.trust,
                verdict, expires)
            if verified_peer == NULL:
                raise MemoryError
            side.verified_peer, side.verdict, side.x509_error = verified_peer, V_ACCEPTED, 0
            return
    except BaseException as defect:
        error, refused, verdict = 1, False, defect
    forget_refusal(side)
    Py_INCREF(verdict)
    side.refused_with = <PyObject *>verdict
    side.x509_error = error
    side.verdict = V_REFUSED if refused else V_DEFECT


cdef void forget_refusal(Side *side):
    if side.refused_with != NULL:
        Py_DECREF(<object>side.refused_with)
        side.refused_with = NULL


cdef void forget_handshake(Side *side, VerifyCache *verify_cache):
    """Let go of what Python owns; the worker is done with it."""
    forget_refusal(side)
    if side.verified_peer != NULL:
        release_verified(verify_cache, side.verified_peer)
        side.verified_peer = NULL
    forget_context(side)
    side.verdict = V_NONE
    side.x509_error = 1


cdef void forget_context(Side *side):
    if side.owns_context:
        Py_DECREF(<object>side.tls_setup.context)
        side.owns_context = False
    side.tls_setup.context = NULL
    side.tls_setup.ssl_ctx = side.tls_setup.identity = NULL
    side.tls_setup.server_name = NULL


cdef void fill_setup(TlsSetup *setup, fields):
    """From `_engine.Handshake` or None; holds the context."""
    if fields is None:
        return
    context, pointer, identity, trust, client, server_name = fields
    Py_INCREF(context)
    setup.context = <PyObject *>context
    setup.ssl_ctx = <void *><uintptr_t>pointer
    setup.identity = <void *><uintptr_t>identity
    setup.trust, setup.client = trust, client
    setup.server_name = <const char *><uintptr_t>server_name


cdef int fill_target(sockaddr_storage *target, unsigned int *size, bytes address) except -1:
    if len(address) > <Py_ssize_t>sizeof(sockaddr_storage):
        raise ValueError("the address is too long")
    memcpy(target, <char *>address, len(address))
    size[0] = len(address)
    return 0


cdef Worker *new_worker(Shared *shared) except NULL:
    cdef Worker *worker = <Worker *>calloc(1, sizeof(Worker))
    cdef epoll_event event
    if worker == NULL:
        raise MemoryError
    worker.kind, worker.shared, worker.heap_room = K_BELL, shared, 64
    worker.heap = <Connection **>malloc(worker.heap_room * sizeof(void *))
    worker.epoll = epoll_create1(EPOLL_CLOEXEC)
    worker.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    pthread_mutex_init(&worker.lock, NULL)
    event.events = EPOLLIN
    event.data.ptr = worker
    if (worker.heap == NULL or worker.epoll < 0 or worker.bell < 0
            or epoll_ctl(worker.epoll, EPOLL_CTL_ADD, worker.bell, &event) != 0):
        error = errno
        free_worker(worker)
        raise OSError(error, "no descriptor or memory for a thread")
    return worker


cdef void free_worker(Worker *worker):
    if worker.epoll >= 0:
        close(worker.epoll)
    if worker.bell >= 0:
        close(worker.bell)
    pthread_mutex_destroy(&worker.lock)
    free(worker.heap)
    free(worker)


cdef class Core:
    """The threads, what they share, and their way to the loop."""

    cdef Shared *shared
    cdef list threads
    cdef object make_handle

    def __cinit__(self):
        self.shared = <Shared *>calloc(1, sizeof(Shared))
        if self.shared == NULL:
            raise MemoryError
        self.shared.reports.bell = -1

    def __init__(self, int threads, dict addresses, uintptr_t small_key, options, judge, make_handle):
        """`small_key` is the address of an EVP_PKEY that lives for ever; `options` are (level,
        name, value) for TCP sockets that are dialled; `judge` answers for a peer's certificate
        (`libssl.judge`), `born` makes the ConnectionHandle of an arrival from its offer."""
        global _judge
        cdef Shared *shared = self.shared
        cdef int at
        _judge, self.make_handle = judge, make_handle
        take_addresses(addresses, small_key)
        if len(options) > MAX_OPTIONS:
            raise ValueError("too many socket options")
        for at, (level, name, value) in enumerate(options):
            shared.options[at].level, shared.options[at].name = level, name
            shared.options[at].value = value
        shared.option_count = len(options)
        shared.judge = ask_verifier
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
        cdef Worker *worker = self.shared.workers[at]
        with nogil:
            work(worker)

    def fileno(self):
        return self.shared.reports.bell

    def set_limits(self, int connections, int per_source, int handshakes):
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        word_set(&limits.most, connections)
        limits.most_per_source = per_source
        pthread_mutex_unlock(&limits.lock)
        word_set(&limits.most_slots, handshakes)

    def refused(self):
        """Arrivals refused since the start for want of: room, room for their source, a slot."""
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        counts = limits.full, limits.source_full, limits.no_slot
        pthread_mutex_unlock(&limits.lock)
        return counts

    def alive(self):
        """Connections whose wires haven't been released."""
        return word_get(&self.shared.alive)

    def busy_since(self):
        """When the longest turn that goes on began (monotonic seconds); None where none does,
        0.0 where a thread has ended."""
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
        """What has been asked or has happened since the last time, `(wire, events)`: of so many
        connections at most, and `fileno` is readable again if that were all."""
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
        cdef ConnectionHandle handle
        if connection.handle == NULL:
            handle = self.make_handle(<object>connection.door_state.python)
            handle.connection, handle.core = connection, self
            Py_INCREF(handle)
            connection.handle = <PyObject *>handle
        return <ConnectionHandle>connection.handle

    def cut_all(self):
        """Reset every connection that a thread has by now."""
        self._post_to_all(C_CUT_ALL, NULL)

    def stop(self):
        """End the threads; every wire must have been released."""
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
            release_verified(&self.shared.verify_cache, drop_oldest_verified(&self.shared.verify_cache))
        close(self.shared.reports.bell)
        self.shared.reports.bell = -1

    cdef _post_to_all(self, int kind, Listener *listener):
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
    """A listening socket that every thread accepts from."""

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
        self.listener.paused = True

    def set_door_state(self, state, downstream, bint ask, double limit):
        """What arrivals meet from now on, and `ConnectionHandle.offer` gives back: `downstream` is (context, the
        address of its SSL_CTX, trust, client) or None in the clear; or each arrival asks.  No
        route that stood does any more."""
        cdef DoorState *door_state = <DoorState *>calloc(1, sizeof(DoorState))
        cdef DoorState *before
        if door_state == NULL:
            raise MemoryError
        pthread_mutex_init(&door_state.lock, NULL)
        Py_INCREF(state)
        door_state.python, door_state.held = <PyObject *>state, 1
        door_state.ask, door_state.limit = ask, limit
        fill_setup(&door_state.downstream, downstream)
        pthread_mutex_lock(&self.listener.lock)
        before = self.listener.door_state
        pointer_set(<void **>&self.listener.door_state, door_state)
        pthread_mutex_unlock(&self.listener.lock)
        if before != NULL:
            release_door_state(before)

    def resume(self):
        """Accept, at first or after a shortage."""
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
        """The errno for which accepting paused since the last time; 0: it didn't."""
        cdef int error
        pthread_mutex_lock(&self.listener.lock)
        error, self.listener.shortage = self.listener.shortage, 0
        pthread_mutex_unlock(&self.listener.lock)
        return error

    def undecided(self):
        """Arrivals neither admitted nor refused."""
        return word_get(&self.listener.undecided)

    def close(self, int most):
        """Accept at most so many who wait in the kernel's queue, and nobody later: the socket
        may be closed."""
        cdef Listener *listener = self.listener
        cdef DoorState *door_state
        cdef int at, error = 0
        if listener.closed:
            return
        for at in range(most):
            if accept_for_worker(listener, self.core.shared, NULL, &error) not in (A_ONE, A_GONE):
                break
        pthread_mutex_lock(&listener.lock)
        word_set(<int *>&listener.closed, True)
        door_state = listener.door_state
        pointer_set(<void **>&listener.door_state, NULL)
        if not listener.paused:
            for at in range(self.core.shared.count):
                epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
        pthread_mutex_unlock(&listener.lock)
        self.core._post_to_all(C_RELEASE_LISTENER, listener)
        if door_state != NULL:
            release_door_state(door_state)

    def __dealloc__(self):
        if self.listener != NULL:
            listener_release(self.listener)


cdef class ConnectionHandle:
    """One connection, as the loop holds it from the first time it hears of it."""

    cdef Connection *connection
    cdef Core core
    cdef int last_state
    cdef int64_t last_counts[2]

    @property
    def state_number(self):
        """The step, as an index into lifecycle.State."""
        return self.last_state if self.connection == NULL else word_get(&self.connection.state)

    def enter_state(self, int state):
        """The loop's own steps."""
        word_set(&self.connection.state, state)

    def count(self, int side):
        """Application bytes that came from the downstream (0) or the upstream (1) side."""
        if self.connection == NULL:
            return self.last_counts[side]
        return long_get(&self.connection.counts[side])

    def source(self):
        """(16 bytes of host, port), or None on a unix socket."""
        return _endpoint(&self.connection.source)

    def local(self):
        return _endpoint(&self.connection.local)

    def lasted(self):
        """Seconds from its acceptance to its end."""
        return self.connection.finished - self.connection.accepted

    def cached_route(self):
        """The route that stands and was given; None where the loop has to give one."""
        return None if self.connection.cached_route == NULL else <object>self.connection.cached_route.route

    def mark_decided(self):
        """It has been admitted."""
        mark_decided(self.connection)

    def handshake_downstream(self, downstream, double limit):
        """Answers HANDSHAKEN, ADMITTED or CLOSED."""
        self._use(0, downstream)
        self._post(new_command(C_HANDSHAKE, self.connection), limit, 0)

    def watch_loss(self):
        """Notice a reset of the downstream side from now on."""
        self._post(new_command(C_WATCH_LOSS, self.connection), 0, 0)

    def dial(self, bytes target, upstream, double limit, double handshake_limit):
        """Reach `target` (a sockaddr), in the clear or as `upstream` says.  Answers UPSTREAM_READY,
        UPSTREAM_FAILED or CLOSED."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        fill_target(&command.target, &command.target_size, target)
        self._use(1, upstream)
        self._post(command, limit, handshake_limit)

    def dial_connected(self, int fd, upstream, double handshake_limit):
        """As `dial`, with a socket that is connected."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        command.fd = fd
        self._use(1, upstream)
        self._post(command, 0, handshake_limit)

    def relay(self, bytes preface, double idle, double half_close):
        """Move bytes, `preface` first.  Answers CLOSED."""
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

    def cache_route(self, route, bint by_source, bytes target, upstream, time_limits):
        """Give `route` to whoever else shows the same leaf (and comes from the same host),
        without asking.  False: too many stand already."""
        cdef CachedRoute *cached_route
        cdef uint64_t serial = 0
        if self.connection.sides[0].verified_peer != NULL:
            serial = self.connection.sides[0].verified_peer.serial
        if not is_route_valid(self.connection) or find_cached_route(self.connection, serial) != NULL:
            return True
        cached_route = <CachedRoute *>calloc(1, sizeof(CachedRoute))
        if cached_route == NULL:
            raise MemoryError
        Py_INCREF(route)
        cached_route.route, cached_route.serial = <PyObject *>route, serial
        cached_route.by_source = by_source
        memcpy(cached_route.host, self.connection.source.host, 16)
        fill_setup(&cached_route.upstream, upstream)
        fill_target(&cached_route.target, &cached_route.target_size, target)
        cached_route.connect, cached_route.handshake, cached_route.idle, cached_route.half_close = time_limits
        if add_cached_route(self.connection.door_state, cached_route):
            return True
        free_cached_route(cached_route)
        return False

    def release_door_state(self):
        """It is open: let go of the terms that it came under, and of the contexts that its
        handshakes were made with."""
        cdef Connection *connection = self.connection
        cdef DoorState *door_state = connection.door_state
        connection.cached_route, connection.door_state = NULL, NULL
        forget_context(&connection.sides[0])
        forget_context(&connection.sides[1])
        if door_state != NULL:
            release_door_state(door_state)

    def cut(self):
        """Reset both sides.  Answers CLOSED."""
        self._post(new_command(C_CUT, self.connection), 0, 0)

    def failure(self):
        """`(what, side, errno, OpenSSL's code)`, after CLOSED."""
        return _fault(&self.connection.fault)

    def candidate_failure(self):
        """The same of a candidate, after UPSTREAM_FAILED."""
        return _fault(&self.connection.candidate_fault)

    def verdict(self, int side):
        """The verified peer after a handshake, or the exception that refused it."""
        cdef Side *which = &self.connection.sides[side]
        if which.verdict == V_ACCEPTED and which.verified_peer != NULL:
            return <object>which.verified_peer.peer
        return None if which.refused_with == NULL else <object>which.refused_with

    def facts(self):
        """Version, cipher, group and duration of the last handshake that ended well; None
        without one."""
        if self.connection.version == NULL:
            return None
        return (_text(self.connection.version), _text(self.connection.cipher), _text(self.connection.group),
                self.connection.handshake_seconds)

    def release(self):
        """Let go of it; after CLOSED, and nothing later."""
        cdef Connection *connection = self.connection
        cdef VerifyCache *verify_cache = &self.core.shared.verify_cache
        self.last_state = connection.state
        self.last_counts[0], self.last_counts[1] = connection.counts[0], connection.counts[1]
        forget_handshake(&connection.sides[0], verify_cache)
        forget_handshake(&connection.sides[1], verify_cache)
        if connection.door_state != NULL:
            release_door_state(connection.door_state)
        listener_release(connection.listener)
        self._post(new_command(C_RELEASE, connection), 0, 0)
        self.connection = NULL
        word_add(&self.core.shared.alive, -1)
        Py_DECREF(self)

    cdef _use(self, int side, handshake):
        cdef Side *which = &self.connection.sides[side]
        forget_handshake(which, &self.core.shared.verify_cache)
        fill_setup(&which.tls_setup, handshake)
        which.owns_context = handshake is not None

    cdef _post(self, Command *command, double limit, double other_limit):
        if command == NULL:
            raise MemoryError
        command.limit, command.other_limit = limit, other_limit
        send_command(self.connection.worker, command)


cdef _fault(Fault *fault):
    return FAILURES[fault.what], fault.side, fault.error, fault.code


cdef _endpoint(Endpoint *place):
    if not place.known:
        return None
    return (<char *>place.host)[:16], (place.port >> 8) | ((place.port & 0xFF) << 8)


cdef _text(const char *text):
    return "" if text == NULL else text.decode()
