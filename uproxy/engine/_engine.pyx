# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""Threads that shake hands and move bytes without the GIL, each with its own epoll.

It decides nothing: a `Wire` is told what to do next (`shake_near`, `connect`, `relay`, `cut`)
and `Core.take` says what came of it, in batches, when `Core.fileno` is readable.  All methods
are called on one thread, the event loop's.  No Python object is touched by a worker, but in
`ask_verifier`, once for a leaf that isn't in the table.

Pages, from the bottom up: `_system` (calls), `_verified` (leaves judged lately), `_parts`
(what a thread owns), `_side` (a socket and its TLS), `_relay`, `_worker` (a thread's turn).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

import threading

include "_system.pxi"
include "_verified.pxi"
include "_parts.pxi"
include "_side.pxi"
include "_relay.pxi"
include "_worker.pxi"

NEAR_SHAKEN = E_NEAR_SHAKEN
FAR_READY = E_FAR_READY
FAR_FAILED = E_FAR_FAILED
CLOSED = E_CLOSED
PARTING = E_PARTING

FAILURES = (
    "none", "cut", "os", "tls", "verify", "timeout", "idle", "half_closed", "slots", "no_hello",
    "short_hello", "short_handshake", "truncated", "unproven", "memory", "after_handshake", "unasked",
)

_judge = None  # set by Core


cdef void ask_verifier(Side *side, void *store, const uint8_t *leaf, long size) noexcept:
    cdef Entry *entry
    try:
        error, refused, verdict, expires = _judge(<object>side.context, <uintptr_t>store)
        if error == 0:
            entry = table_add(side.conn.worker.table, leaf, size, side.plan, verdict, expires)
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


cdef void forget_context(Side *side, Table *table):
    """Let go of what Python owns; the worker is done with it."""
    forget_judged(side)
    if side.entry != NULL:
        entry_release(table, side.entry)
        side.entry = NULL
    if side.context != NULL:
        Py_DECREF(<object>side.context)
        side.context = NULL
    side.ssl_ctx = NULL
    side.verdict = V_NONE
    side.x509_error = 1


cdef class _Hand:
    """One worker and its thread."""

    cdef Worker *worker
    cdef readonly object thread
    cdef int load

    def __cinit__(self):
        self.worker = <Worker *>calloc(1, sizeof(Worker))
        if self.worker == NULL:
            raise MemoryError
        self.worker.epoll = self.worker.bell = -1

    cdef start(self, Core core, int number):
        cdef Worker *worker = self.worker
        cdef epoll_event event
        worker.epoll = epoll_create1(EPOLL_CLOEXEC)
        if worker.epoll < 0:
            raise OSError(errno, "no epoll for a thread")
        worker.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if worker.bell < 0:
            raise OSError(errno, "no eventfd for a thread")
        pthread_mutex_init(&worker.lock, NULL)
        worker.heap_room = 64
        worker.heap = <Conn **>malloc(worker.heap_room * sizeof(void *))
        if worker.heap == NULL:
            raise MemoryError
        worker.inbox, worker.table = &core.inbox, &core.table
        worker.slots, worker.most_slots = &core.slots, &core.most_slots
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(worker.epoll, EPOLL_CTL_ADD, worker.bell, &event) != 0:
            raise OSError(errno, "epoll_ctl")
        self.thread = threading.Thread(target=self.run, name=f"uproxy-{number}", daemon=True)
        self.thread.start()

    def run(self):
        with nogil:
            work(self.worker)

    cdef post(self, Command *command):
        cdef bint first
        command.next = NULL
        pthread_mutex_lock(&self.worker.lock)
        first = self.worker.first == NULL
        if first:
            self.worker.first = command
        else:
            self.worker.last.next = command
        self.worker.last = command
        pthread_mutex_unlock(&self.worker.lock)
        if first:
            ring(self.worker.bell)

    def __dealloc__(self):
        cdef Worker *worker = self.worker
        if worker == NULL:
            return
        if worker.epoll >= 0:
            close(worker.epoll)
        if worker.bell >= 0:
            close(worker.bell)
        if worker.der != NULL:
            ossl.BIO_free(worker.der)
        free(worker.heap)
        free(worker)


cdef class Core:
    """The threads, what they share, and their way to the loop."""

    cdef Inbox inbox
    cdef Table table
    cdef int slots
    cdef int most_slots
    cdef list hands

    def __cinit__(self):
        self.inbox.bell = -1

    def __init__(self, int threads, dict addresses, judge):
        global _judge
        _judge = judge
        take_addresses(addresses)
        pthread_mutex_init(&self.inbox.lock, NULL)
        pthread_mutex_init(&self.table.lock, NULL)
        self.inbox.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.inbox.bell < 0:
            raise OSError(errno, "no eventfd for the engine")
        self.hands = []
        self.most_slots = 512
        for number in range(threads):
            hand = _Hand()
            self.hands.append(hand)
            (<_Hand>hand).start(self, number)

    def fileno(self):
        return self.inbox.bell

    def set_most_handshakes(self, int most):
        word_set(&self.most_slots, most)

    def handshakes(self):
        return word_get(&self.slots)

    def busy_since(self):
        """When the longest turn that goes on began (monotonic seconds); None where none does,
        0.0 where a thread has ended."""
        since = []
        for hand in self.hands:
            if not (<_Hand>hand).thread.is_alive():
                return 0.0
            began = count_get(&(<_Hand>hand).worker.busy_since)
            if began:
                since.append(began / 1000)
        return min(since, default=None)

    def adopt(self, Wire wire, int fd):
        """`fd` is the engine's from now on."""
        cdef Conn *conn = <Conn *>calloc(1, sizeof(Conn))
        cdef _Hand least
        if conn == NULL:
            raise MemoryError
        least = min(self.hands, key=_load_of)
        least.load += 1
        conn.worker = least.worker
        conn.heap = -1
        for index in range(2):
            conn.sides[index].conn = conn
            conn.sides[index].index = index
            conn.sides[index].fd = conn.sides[index].mask = -1
            conn.sides[index].x509_error = 1
        conn.sides[0].fd = fd
        wire.conn, wire.hand, wire.core = conn, least, self
        Py_INCREF(wire)
        conn.handle = <PyObject *>wire

    def take(self):
        """What has come of the commands since the last time: `(wire, events)`."""
        cdef Conn *conn
        cdef Conn *following
        cdef int events
        taken = []
        silence(self.inbox.bell)
        pthread_mutex_lock(&self.inbox.lock)
        conn = self.inbox.first
        self.inbox.first = self.inbox.last = NULL
        pthread_mutex_unlock(&self.inbox.lock)
        while conn != NULL:
            pthread_mutex_lock(&self.inbox.lock)
            following, events = conn.next_event, conn.events
            conn.queued, conn.events, conn.next_event = False, 0, NULL
            pthread_mutex_unlock(&self.inbox.lock)
            taken.append((<object>conn.handle, events))
            conn = following
        return taken

    def stop(self):
        """End the threads; every wire must have been released."""
        cdef Command *command
        for hand in self.hands:
            command = <Command *>calloc(1, sizeof(Command))
            if command == NULL:
                raise MemoryError
            command.kind = C_STOP
            (<_Hand>hand).post(command)
        for hand in self.hands:
            (<_Hand>hand).thread.join()
        self.hands.clear()
        while self.table.count:
            entry_release(&self.table, table_drop_oldest(&self.table))
        if self.inbox.bell >= 0:
            close(self.inbox.bell)
            self.inbox.bell = -1


def _load_of(_Hand hand):
    return hand.load


cdef class Wire:
    """One connection, as the loop holds it; `Core.adopt` brings it to life."""

    cdef Conn *conn
    cdef _Hand hand
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

    @property
    def spoke(self):
        """Whether its ClientHello is complete."""
        return self.conn == NULL or word_get(&self.conn.spoke) != 0

    def count(self, int side):
        """Application bytes that came from the near (0) or the far (1) side."""
        if self.conn == NULL:
            return self.last_counts[side]
        return count_get(&self.conn.counts[side])

    def shake_near(self, context, uintptr_t pointer, uint64_t plan, bint client, double limit):
        """Answer NEAR_SHAKEN or CLOSED."""
        self._use(0, context, pointer, plan, client)
        self._post(C_SHAKE_NEAR, -1, False, limit, 0)

    def connect(self, int fd, bint waiting, double limit, double handshake_limit):
        """Go on with a socket that is `waiting` for its connection to be made (or is made), in
        the clear unless `use_far` has been called.  Answers FAR_READY, FAR_FAILED or CLOSED."""
        self._post(C_CONNECT, fd, waiting, limit, handshake_limit)

    def watch_loss(self):
        """Notice a reset of the near side from now on."""
        self._post(C_WATCH, -1, False, 0, 0)

    def use_far(self, context, uintptr_t pointer, uint64_t plan, bint client):
        """The next socket for `connect` is to have TLS."""
        self._use(1, context, pointer, plan, client)

    def relay(self, bytes preface, double idle, double half_close):
        """Move bytes, `preface` first.  Answers CLOSED."""
        cdef char *data = NULL
        if preface:
            data = <char *>malloc(len(preface))
            if data == NULL:
                raise MemoryError
            memcpy(data, <char *>preface, len(preface))
        self._post(C_RELAY, -1, False, idle, half_close, data, len(preface))

    def cut(self):
        """Reset both sides.  Answers CLOSED."""
        self._post(C_CUT, -1, False, 0, 0)

    def failure(self):
        """`(what, side, errno, OpenSSL's code)`, after FAR_FAILED or CLOSED."""
        return (FAILURES[self.conn.failure], self.conn.failed_side,
                self.conn.failed_errno, self.conn.failed_code)

    def verdict(self, int side):
        """The verified peer after a handshake, or the exception that refused it."""
        cdef Side *which = &self.conn.sides[side]
        if which.verdict == V_ACCEPTED and which.entry != NULL:
            return <object>which.entry.peer
        return None if which.judged == NULL else <object>which.judged

    def facts(self):
        """Version, cipher, group and duration of the last handshake that ended well."""
        return (self.conn.version.decode(), self.conn.cipher.decode(),
                self.conn.group.decode(), self.conn.shook)

    def release(self):
        """Let go of it; after CLOSED, and nothing later."""
        cdef Conn *conn = self.conn
        self.last_phase = conn.phase
        self.last_counts[0], self.last_counts[1] = conn.counts[0], conn.counts[1]
        forget_context(&conn.sides[0], &self.core.table)
        forget_context(&conn.sides[1], &self.core.table)
        self._post(C_RELEASE, -1, False, 0, 0)
        self.conn = NULL
        self.hand.load -= 1
        Py_DECREF(self)

    cdef _use(self, int side, context, uintptr_t pointer, uint64_t plan, bint client):
        cdef Side *which = &self.conn.sides[side]
        forget_context(which, &self.core.table)
        Py_INCREF(context)
        which.context = <PyObject *>context
        which.ssl_ctx = <void *>pointer
        which.plan, which.client = plan, client

    cdef _post(self, int kind, int fd, bint waiting, double limit, double other_limit,
               char *data=NULL, size_t size=0):
        cdef Command *command = <Command *>calloc(1, sizeof(Command))
        if command == NULL:
            free(data)
            raise MemoryError
        command.kind, command.conn, command.fd, command.waiting = kind, self.conn, fd, waiting
        command.limit, command.other_limit = limit, other_limit
        command.data, command.size = data, size
        self.hand.post(command)
