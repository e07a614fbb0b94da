# What a thread owns.  A connection belongs to one worker from its first command to its last;
# until `E_CLOSED` only the worker touches its sides, except that the loop reads counts and the
# phase, and writes what a command carries.  The loop frees it, by the command C_RELEASE, after
# it has taken E_CLOSED: a pending question holds no pointer that can die.

cdef enum:
    RECEIVE = 64 * 1024
    RECORD = 16 * 1024 + 512
    PLAIN = RECEIVE + 2 * RECORD
    MAX_HELLO = 64 * 1024
    OWN_BACKLOG = 128 * 1024
    KEPT_OUTPUT = 4 * 1024  # what a session's output buffer may have grown to and be kept
    EVENTS = 128

cdef double LINGER = 1.0

cdef enum Phase:  # the order of lifecycle.State
    P_ACCEPTED, P_HANDSHAKING_NEAR, P_ADMITTING, P_CONNECTING, P_HANDSHAKING_FAR
    P_RELAYING, P_CLOSING, P_CLOSED

cdef enum Mode:  # what the worker waits for
    M_ASKING, M_HELLO, M_SHAKING, M_CONNECTING, M_RELAYING, M_PARTING, M_DEAD

cdef enum Event:  # bits: several may wait
    E_NEAR_SHAKEN = 1
    E_FAR_READY = 2
    E_FAR_FAILED = 4
    E_CLOSED = 8
    E_PARTING = 16

cdef enum CommandKind:
    C_SHAKE_NEAR, C_WATCH, C_CONNECT, C_RELAY, C_CUT, C_RELEASE, C_STOP

cdef enum Failure:
    F_NONE, F_CUT, F_OS, F_TLS, F_VERIFY, F_TIMEOUT, F_IDLE, F_HALF_CLOSED, F_SLOTS
    F_NO_HELLO, F_SHORT_HELLO, F_SHORT_HANDSHAKE, F_TRUNCATED, F_UNPROVEN, F_MEMORY
    F_AFTER_HANDSHAKE, F_UNASKED

cdef enum Verdict:
    V_NONE, V_ACCEPTED, V_REFUSED, V_DEFECT

cdef struct Side:
    Conn *conn
    int index
    int fd  # -1: none
    int mask  # what epoll reports; -1: not watched
    bint client
    bint asked  # the other side wants to see our certificate: a server's is never optional
    bint hung_up
    bint ending  # we have said our end, or will behind the backlog
    bint ended  # the peer's close_notify has come
    void *ssl_ctx  # of the plan, which `context` keeps; NULL in the clear
    void *ssl
    void *output  # the session's memory BIO, which it owns
    char *backlog
    size_t backlog_at
    size_t backlog_size
    char *early  # plaintext that came with the handshake's end, or a hello that isn't whole
    size_t early_size
    size_t record_at  # of a hello: where the record begins that isn't all there
    size_t message_size  # its message's bytes in the records before
    uint8_t message[4]  # its message's header
    size_t message_known
    PyObject *context  # with the GIL
    PyObject *judged  # with the GIL: the verdict's words where there is no entry
    uint64_t plan
    Entry *entry
    int verdict
    int x509_error

cdef struct Conn:
    Worker *worker
    Side sides[2]  # near, far
    int mode
    int phase
    int spoke  # its ClientHello is complete
    bint has_slot
    bint flow_ended[2]
    int64_t counts[2]  # application bytes from near, from far
    double started  # of the handshake
    double due  # 0: no deadline
    double last  # something moved
    double limits[2]  # idle, half-closed; of the handshake while connecting: [0]
    Py_ssize_t heap  # where it is in the worker's heap; -1: nowhere
    int failure
    int failed_side
    int failed_errno
    unsigned long failed_code
    double shook  # seconds
    char version[16]
    char cipher[48]
    char group[32]
    # towards the loop, under the inbox's lock
    int events
    bint queued
    Conn *next_event
    PyObject *handle

cdef struct Command:
    int kind
    Conn *conn
    int fd
    bint waiting
    void *context
    double limit
    double other_limit
    char *data
    size_t size
    Command *next

cdef struct Inbox:  # of the loop
    pthread_mutex_t lock
    Conn *first
    Conn *last
    int bell

cdef struct Worker:
    int epoll
    int bell
    pthread_mutex_t lock
    Command *first
    Command *last
    bint stopping
    double now
    int64_t busy_since  # milliseconds; 0: waiting
    Conn **heap
    Py_ssize_t heap_size
    Py_ssize_t heap_room
    void *der
    Inbox *inbox
    Table *table
    int *slots
    int *most_slots
    char received[RECEIVE]
    char plain[PLAIN]


cdef void ring(int bell) noexcept nogil:
    cdef uint64_t one = 1
    while write(bell, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef void silence(int bell) noexcept nogil:
    cdef uint64_t count
    while read(bell, &count, sizeof(count)) < 0 and errno == EINTR:
        pass


cdef void tell(Conn *conn, int event) noexcept nogil:
    """Report to the loop, which takes reports in batches."""
    cdef Inbox *inbox = conn.worker.inbox
    cdef bint first = False
    pthread_mutex_lock(&inbox.lock)
    conn.events |= event
    if not conn.queued:
        conn.queued = True
        conn.next_event = NULL
        if inbox.last != NULL:
            inbox.last.next_event = conn
        else:
            inbox.first = conn
            first = True
        inbox.last = conn
    pthread_mutex_unlock(&inbox.lock)
    if first:
        ring(inbox.bell)


# Deadlines: a binary heap in which a connection knows its place.


cdef void heap_put(Worker *worker, Py_ssize_t at, Conn *conn) noexcept nogil:
    worker.heap[at] = conn
    conn.heap = at


cdef void heap_settle(Worker *worker, Py_ssize_t at, Conn *conn) noexcept nogil:
    """Let `conn`, which is to go at `at`, rise or sink to where it belongs."""
    cdef Py_ssize_t other
    while at > 0 and conn.due < worker.heap[(at - 1) // 2].due:
        heap_put(worker, at, worker.heap[(at - 1) // 2])
        at = (at - 1) // 2
    while True:
        other = 2 * at + 1
        if other >= worker.heap_size:
            break
        if other + 1 < worker.heap_size and worker.heap[other + 1].due < worker.heap[other].due:
            other += 1
        if conn.due <= worker.heap[other].due:
            break
        heap_put(worker, at, worker.heap[other])
        at = other
    heap_put(worker, at, conn)


cdef void forget_deadline(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Py_ssize_t at = conn.heap
    conn.due = 0
    if at < 0:
        return
    conn.heap = -1
    worker.heap_size -= 1
    if at < worker.heap_size:
        heap_settle(worker, at, worker.heap[worker.heap_size])


cdef int set_deadline(Conn *conn, double due) noexcept nogil:
    """0 is none.  -1 without memory."""
    cdef Worker *worker = conn.worker
    cdef Conn **bigger
    if due == 0:
        forget_deadline(conn)
        return 0
    conn.due = due
    if conn.heap >= 0:
        heap_settle(worker, conn.heap, conn)
        return 0
    if worker.heap_size == worker.heap_room:
        bigger = <Conn **>realloc(worker.heap, 2 * worker.heap_room * sizeof(void *))
        if bigger == NULL:
            return -1
        worker.heap, worker.heap_room = bigger, 2 * worker.heap_room
    worker.heap_size += 1
    heap_settle(worker, worker.heap_size - 1, conn)
    return 0
