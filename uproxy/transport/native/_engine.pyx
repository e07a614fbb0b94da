# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""Threads that accept, shake hands, dial and move bytes without the GIL, each with its own epoll.

It decides nothing.  A door's terms (`Listening.offer`) say what arrivals meet, routes that stand
(`Wire.let_stand`) where known callers go; whatever else is to be decided is asked: `Core.take`
says what was asked and what has come of it, in batches, when `Core.fileno` is readable.  All
methods are called on one thread, the event loop's.  No Python object is touched by a worker,
but in `ask_verifier`, once for a leaf that isn't in the table.

The pages, from the bottom up: `system`, `openssl` (calls), `alpn`, `parts` (every structure), `inbox`,
`deadlines`, `gate` (limits), `verified` (leaves), `standing` (terms and routes), `side` (a socket
and its TLS), `hello`, `presented` (certificates), `ending`, `relay`, `shake`, `offload`, `far`, `near`, `worker` (a thread's
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
from uproxy.transport.native.queues cimport command, decide, inbox_remove, post, ring_loop, silence
from uproxy.transport.native.accept cimport A_GONE, A_ONE, pause, take_one
from uproxy.transport.native.offload cimport helpers_busy_since, stop_helpers
from uproxy.transport.native.openssl cimport OSSL_PLACES, ossl_places, ossl_small_key
from uproxy.transport.native.types cimport (
    COMPANY, C_CUT, C_CUT_ALL, C_DIAL, C_FORGET, C_RELAY, C_RELEASE, C_SHAKE_NEAR, C_STOP,
    C_WATCH, EXCESS_COUNT, E_ADMITTED, E_ARRIVED, E_CLOSED, E_FAR_FAILED, E_FAR_READY,
    E_OPENED, E_SHAKEN, FAILURE_COUNT, F_AFTER_HANDSHAKE, F_CUT, F_EVICTED, F_EXCESS, F_FULL,
    F_HALF_CLOSED, F_IDLE, F_MEMORY, F_NONE, F_NO_HELLO, F_OS, F_SHORT_HANDSHAKE,
    F_SHORT_HELLO, F_SLOTS, F_SOURCE_FULL, F_TIMEOUT, F_TLS, F_TRUNCATED, F_UNASKED,
    F_UNPROVEN, F_VERIFY, K_BELL, K_LISTENER, MAX_CHAIN, MAX_CHAIN_BYTES, MAX_DEPTH, MAX_KEY, MAX_NAME_PARTS, MAX_PARTS,
    MAX_REQUEST, MAX_TEXT, MOST_OPTIONS, PHASE_COUNT, P_ACCEPTED, P_ADMITTING, P_CLOSED,
    P_CLOSING, P_CONNECTING, P_HANDSHAKING_UPSTREAM, P_HANDSHAKING_DOWNSTREAM, P_RELAYING, V_ACCEPTED,
    V_DEFECT, V_NONE, V_REFUSED, X_BYTES, X_CERTIFICATES, X_KEY, X_MESSAGE, X_NAME, X_NOT_DER, X_PARTS,
    X_REQUEST, X_TEXT,
    Command, Conn, Entry, Fault, Gate, Handshake, Inbox, Listener, Place, Presented, Shared,
    Side, Standing, Table, Terms, Worker,
)
from uproxy.transport.native.presented cimport read_presented
from uproxy.transport.native.handshake cimport on_message
from uproxy.transport.native.route_cache cimport (
    add_standing, find_standing, free_standing, listener_release, still_stands, terms_release,
)
from uproxy.transport.native.system cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLLEXCLUSIVE, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD,
    EPOLL_CTL_DEL, clock_of, epoll_create1, epoll_ctl, epoll_event, eventfd, long_get, pointer_set,
    pthread_cond_init, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
    sockaddr_storage, word_add, word_get, word_set,
)
from uproxy.transport.native.verify_cache cimport entry_release, table_add, table_drop_oldest
from uproxy.transport.native.worker cimport work

import os
import threading

from uproxy.lifecycle import State
from uproxy.spiffe import presented

ARRIVED = E_ARRIVED
SHAKEN = E_SHAKEN
ADMITTED = E_ADMITTED
FAR_READY = E_FAR_READY
FAR_FAILED = E_FAR_FAILED
OPENED = E_OPENED
CLOSED = E_CLOSED

PHASES = {
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
        "NAME": X_NAME,
    }
    bounds = {
        "MAX_CHAIN": MAX_CHAIN, "MAX_CHAIN_BYTES": MAX_CHAIN_BYTES, "MAX_PARTS": MAX_PARTS,
        "MAX_TEXT": MAX_TEXT, "MAX_KEY": MAX_KEY, "MAX_REQUEST": MAX_REQUEST,
        "MAX_NAME_PARTS": MAX_NAME_PARTS, "MAX_DEPTH": MAX_DEPTH,
    }
    found = {
        "state": {*State} ^ PHASES.keys(),
        "phase": {*range(PHASE_COUNT)} ^ {*PHASES.values()},
        "failure": {*range(FAILURE_COUNT)} ^ FAILURES.keys(),
        "excess": {(each.name, each.value) for each in presented.Excess} ^ {*excesses.items()},
        "excess's number": {*range(1, EXCESS_COUNT)} ^ {*excesses.values()},
        "bound": {each for each in vars(presented).items() if each[0].startswith("MAX_")}
        ^ {*bounds.items()},
    }
    return {what: names for what, names in found.items() if names}

if differing():
    raise ImportError(f"the engine's C and Python differ in {differing()}")

OPENSSL_FUNCTIONS = tuple(ossl_places[at].name.decode() for at in range(OSSL_PLACES))

CHOOSE_PROTOCOL = <uintptr_t>&choose_protocol
ON_MESSAGE = <uintptr_t>&on_message
READ_PRESENTED = <uintptr_t>&read_presented

_judge = None  # set by Core


cdef int take_addresses(dict addresses, uintptr_t small_key) except -1:
    """Fill OpenSSL's table; `addresses` has each of OPENSSL_FUNCTIONS."""
    global ossl_small_key
    ossl_small_key = <void *>small_key
    for at in range(OSSL_PLACES):
        ossl_places[at].place[0] = <void *><uintptr_t>addresses[ossl_places[at].name.decode()]
    return 0


cdef void ask_verifier(Side *side, Presented *them) noexcept with gil:
    cdef Entry *entry
    cdef int at
    try:
        chain = tuple([(<char *>them.ders[at])[:them.sizes[at]] for at in range(them.count)])
        error, refused, verdict, expires = _judge(<object>side.shakes.context, chain)
        if error == 0:
            entry = table_add(
                &side.conn.worker.shared.table, them.ders[0], them.sizes[0], side.shakes.trust,
                verdict, expires)
            if entry == NULL:
                raise MemoryError
            side.entry, side.verdict, side.x509_error = entry, V_ACCEPTED, 0
            return
    except BaseException as defect:
        error, refused, verdict = 1, False, defect
    forget_judged(side)
    Py_INCREF(verdict)
    side.judged = <PyObject *>verdict
    side.x509_error = error
    side.verdict = V_REFUSED if refused else V_DEFECT


cdef void forget_judged(Side *side):
    if side.judged != NULL:
        Py_DECREF(<object>side.judged)
        side.judged = NULL


cdef void forget_handshake(Side *side, Table *table):
    """Let go of what Python owns; the worker is done with it."""
    forget_judged(side)
    if side.entry != NULL:
        entry_release(table, side.entry)
        side.entry = NULL
    forget_context(side)
    side.verdict = V_NONE
    side.x509_error = 1


cdef void forget_context(Side *side):
    if side.owns_context:
        Py_DECREF(<object>side.shakes.context)
        side.owns_context = False
    side.shakes.context = NULL
    side.shakes.ssl_ctx = side.shakes.identity = NULL
    side.shakes.server_name = NULL


cdef void fill(Handshake *handshake, terms):
    """From `_engine.Handshake` or None; holds the context."""
    if terms is None:
        return
    context, pointer, identity, trust, client, server_name = terms
    Py_INCREF(context)
    handshake.context = <PyObject *>context
    handshake.ssl_ctx = <void *><uintptr_t>pointer
    handshake.identity = <void *><uintptr_t>identity
    handshake.trust, handshake.client = trust, client
    handshake.server_name = <const char *><uintptr_t>server_name


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
    worker.heap = <Conn **>malloc(worker.heap_room * sizeof(void *))
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
    cdef object born

    def __cinit__(self):
        self.shared = <Shared *>calloc(1, sizeof(Shared))
        if self.shared == NULL:
            raise MemoryError
        self.shared.inbox.bell = -1

    def __init__(self, int threads, dict addresses, uintptr_t small_key, options, judge, born):
        """`small_key` is the address of an EVP_PKEY that lives for ever; `options` are (level,
        name, value) for TCP sockets that are dialled; `judge` answers for a peer's certificate
        (`libssl.judge`), `born` makes the Wire of an arrival from its offer."""
        global _judge
        cdef Shared *shared = self.shared
        cdef int at
        _judge, self.born = judge, born
        take_addresses(addresses, small_key)
        if len(options) > MOST_OPTIONS:
            raise ValueError("too many socket options")
        for at, (level, name, value) in enumerate(options):
            shared.options[at].level, shared.options[at].name = level, name
            shared.options[at].value = value
        shared.option_count = len(options)
        shared.judge = ask_verifier
        for at in range(5):
            shared.gate.keys[at] = int.from_bytes(os.urandom(8), "big")
        pthread_mutex_init(&shared.inbox.lock, NULL)
        pthread_mutex_init(&shared.gate.lock, NULL)
        pthread_mutex_init(&shared.table.lock, NULL)
        pthread_mutex_init(&shared.helpers.lock, NULL)
        pthread_mutex_init(&shared.helpers.judging, NULL)
        pthread_cond_init(&shared.helpers.changed, NULL)
        shared.inbox.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if shared.inbox.bell < 0:
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
        return self.shared.inbox.bell

    def set_limits(self, int connections, int per_source, int handshakes):
        cdef Gate *gate = &self.shared.gate
        pthread_mutex_lock(&gate.lock)
        word_set(&gate.most, connections)
        gate.most_per_source = per_source
        pthread_mutex_unlock(&gate.lock)
        word_set(&gate.most_slots, handshakes)

    def refused(self):
        """Arrivals refused since the start for want of: room, room for their source, a slot."""
        cdef Gate *gate = &self.shared.gate
        pthread_mutex_lock(&gate.lock)
        counts = gate.full, gate.source_full, gate.no_slot
        pthread_mutex_unlock(&gate.lock)
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
        cdef Inbox *inbox = &self.shared.inbox
        cdef Conn *conn
        cdef int events = 0
        taken = []
        silence(inbox.bell)
        pthread_mutex_lock(&inbox.lock)
        inbox.rung = False
        if inbox.waiting >= COMPANY:
            inbox.busy = clock_of(CLOCK_MONOTONIC)
        pthread_mutex_unlock(&inbox.lock)
        while len(taken) < most:
            pthread_mutex_lock(&inbox.lock)
            conn = inbox.first
            if conn != NULL:
                events = inbox_remove(inbox, conn)
            pthread_mutex_unlock(&inbox.lock)
            if conn == NULL:
                return taken
            taken.append((self._wire_of(conn), events))
        ring_loop(inbox)
        return taken

    cdef Wire _wire_of(self, Conn *conn):
        cdef Wire wire
        if conn.handle == NULL:
            wire = self.born(<object>conn.terms.offer)
            wire.conn, wire.core = conn, self
            Py_INCREF(wire)
            conn.handle = <PyObject *>wire
        return <Wire>conn.handle

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
        while self.shared.table.count:
            entry_release(&self.shared.table, table_drop_oldest(&self.shared.table))
        close(self.shared.inbox.bell)
        self.shared.inbox.bell = -1

    cdef _post_to_all(self, int kind, Listener *listener):
        cdef int at
        for at in range(self.shared.count):
            self._post(self.shared.workers[at], kind, listener)

    cdef _post(self, Worker *worker, int kind, Listener *listener):
        cdef Command *order = command(kind, NULL)
        if order == NULL:
            raise MemoryError
        order.listener = listener
        post(worker, order)

    def __dealloc__(self):
        if self.shared != NULL and self.shared.count == 0:  # otherwise threads have it
            free(self.shared.workers)
            free(self.shared)


cdef class Listening:
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

    def offer(self, offer, near, bint ask, double limit):
        """What arrivals meet from now on, and `Wire.offer` gives back: `near` is (context, the
        address of its SSL_CTX, trust, client) or None in the clear; or each arrival asks.  No
        route that stood does any more."""
        cdef Terms *terms = <Terms *>calloc(1, sizeof(Terms))
        cdef Terms *before
        if terms == NULL:
            raise MemoryError
        pthread_mutex_init(&terms.lock, NULL)
        Py_INCREF(offer)
        terms.offer, terms.held = <PyObject *>offer, 1
        terms.ask, terms.limit = ask, limit
        fill(&terms.near, near)
        pthread_mutex_lock(&self.listener.lock)
        before = self.listener.terms
        pointer_set(<void **>&self.listener.terms, terms)
        pthread_mutex_unlock(&self.listener.lock)
        if before != NULL:
            terms_release(before)

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
        cdef Terms *terms
        cdef int at, error = 0
        if listener.closed:
            return
        for at in range(most):
            if take_one(listener, self.core.shared, NULL, &error) not in (A_ONE, A_GONE):
                break
        pthread_mutex_lock(&listener.lock)
        word_set(<int *>&listener.closed, True)
        terms = listener.terms
        pointer_set(<void **>&listener.terms, NULL)
        if not listener.paused:
            for at in range(self.core.shared.count):
                epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
        pthread_mutex_unlock(&listener.lock)
        self.core._post_to_all(C_FORGET, listener)
        if terms != NULL:
            terms_release(terms)

    def __dealloc__(self):
        if self.listener != NULL:
            listener_release(self.listener)


cdef class Wire:
    """One connection, as the loop holds it from the first time it hears of it."""

    cdef Conn *conn
    cdef Core core
    cdef int last_phase
    cdef int64_t last_counts[2]

    @property
    def phase(self):
        """The step, as an index into lifecycle.State."""
        return self.last_phase if self.conn == NULL else word_get(&self.conn.phase)

    def enter(self, int phase):
        """The loop's own steps."""
        word_set(&self.conn.phase, phase)

    def count(self, int side):
        """Application bytes that came from the near (0) or the far (1) side."""
        if self.conn == NULL:
            return self.last_counts[side]
        return long_get(&self.conn.counts[side])

    def source(self):
        """(16 bytes of host, port), or None on a unix socket."""
        return _place(&self.conn.source)

    def local(self):
        return _place(&self.conn.local)

    def lasted(self):
        """Seconds from its acceptance to its end."""
        return self.conn.finished - self.conn.accepted

    def standing(self):
        """The route that stands and was given; None where the loop has to give one."""
        return None if self.conn.standing == NULL else <object>self.conn.standing.route

    def decided(self):
        """It has been admitted."""
        decide(self.conn)

    def shake_near(self, near, double limit):
        """Answers SHAKEN, ADMITTED or CLOSED."""
        self._use(0, near)
        self._post(command(C_SHAKE_NEAR, self.conn), limit, 0)

    def watch_loss(self):
        """Notice a reset of the near side from now on."""
        self._post(command(C_WATCH, self.conn), 0, 0)

    def dial(self, bytes target, far, double limit, double handshake_limit):
        """Reach `target` (a sockaddr), in the clear or as `far` says.  Answers FAR_READY,
        FAR_FAILED or CLOSED."""
        cdef Command *order = command(C_DIAL, self.conn)
        if order == NULL:
            raise MemoryError
        fill_target(&order.target, &order.target_size, target)
        self._use(1, far)
        self._post(order, limit, handshake_limit)

    def go_on(self, int fd, far, double handshake_limit):
        """As `dial`, with a socket that is connected."""
        cdef Command *order = command(C_DIAL, self.conn)
        if order == NULL:
            raise MemoryError
        order.fd = fd
        self._use(1, far)
        self._post(order, 0, handshake_limit)

    def relay(self, bytes preface, double idle, double half_close):
        """Move bytes, `preface` first.  Answers CLOSED."""
        cdef Command *order = command(C_RELAY, self.conn)
        if order != NULL and preface:
            order.data = <char *>malloc(len(preface))
            if order.data == NULL:
                free(order)
                order = NULL
            else:
                memcpy(order.data, <char *>preface, len(preface))
                order.size = len(preface)
        self._post(order, idle, half_close)

    def let_stand(self, route, bint by_source, bytes target, far, limits):
        """Give `route` to whoever else shows the same leaf (and comes from the same host),
        without asking.  False: too many stand already."""
        cdef Standing *standing
        cdef uint64_t serial = 0
        if self.conn.sides[0].entry != NULL:
            serial = self.conn.sides[0].entry.serial
        if not still_stands(self.conn) or find_standing(self.conn, serial) != NULL:
            return True
        standing = <Standing *>calloc(1, sizeof(Standing))
        if standing == NULL:
            raise MemoryError
        Py_INCREF(route)
        standing.route, standing.serial = <PyObject *>route, serial
        standing.by_source = by_source
        memcpy(standing.host, self.conn.source.host, 16)
        fill(&standing.far, far)
        fill_target(&standing.target, &standing.target_size, target)
        standing.connect, standing.handshake, standing.idle, standing.half_close = limits
        if add_standing(self.conn.terms, standing):
            return True
        free_standing(standing)
        return False

    def forget_terms(self):
        """It is open: let go of the terms that it came under, and of the contexts that its
        handshakes were made with."""
        cdef Conn *conn = self.conn
        cdef Terms *terms = conn.terms
        conn.standing, conn.terms = NULL, NULL
        forget_context(&conn.sides[0])
        forget_context(&conn.sides[1])
        if terms != NULL:
            terms_release(terms)

    def cut(self):
        """Reset both sides.  Answers CLOSED."""
        self._post(command(C_CUT, self.conn), 0, 0)

    def failure(self):
        """`(what, side, errno, OpenSSL's code)`, after CLOSED."""
        return _fault(&self.conn.fault)

    def missed(self):
        """The same of a candidate, after FAR_FAILED."""
        return _fault(&self.conn.missed)

    def verdict(self, int side):
        """The verified peer after a handshake, or the exception that refused it."""
        cdef Side *which = &self.conn.sides[side]
        if which.verdict == V_ACCEPTED and which.entry != NULL:
            return <object>which.entry.peer
        return None if which.judged == NULL else <object>which.judged

    def facts(self):
        """Version, cipher, group and duration of the last handshake that ended well; None
        without one."""
        if self.conn.version == NULL:
            return None
        return (_text(self.conn.version), _text(self.conn.cipher), _text(self.conn.group),
                self.conn.shook)

    def release(self):
        """Let go of it; after CLOSED, and nothing later."""
        cdef Conn *conn = self.conn
        cdef Table *table = &self.core.shared.table
        self.last_phase = conn.phase
        self.last_counts[0], self.last_counts[1] = conn.counts[0], conn.counts[1]
        forget_handshake(&conn.sides[0], table)
        forget_handshake(&conn.sides[1], table)
        if conn.terms != NULL:
            terms_release(conn.terms)
        listener_release(conn.listener)
        self._post(command(C_RELEASE, conn), 0, 0)
        self.conn = NULL
        word_add(&self.core.shared.alive, -1)
        Py_DECREF(self)

    cdef _use(self, int side, handshake):
        cdef Side *which = &self.conn.sides[side]
        forget_handshake(which, &self.core.shared.table)
        fill(&which.shakes, handshake)
        which.owns_context = handshake is not None

    cdef _post(self, Command *order, double limit, double other_limit):
        if order == NULL:
            raise MemoryError
        order.limit, order.other_limit = limit, other_limit
        post(self.conn.worker, order)


cdef _fault(Fault *fault):
    return FAILURES[fault.what], fault.side, fault.error, fault.code


cdef _place(Place *place):
    if not place.known:
        return None
    return (<char *>place.host)[:16], (place.port >> 8) | ((place.port & 0xFF) << 8)


cdef _text(const char *text):
    return "" if text == NULL else text.decode()
