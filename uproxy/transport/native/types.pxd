"""What the engine is made of: every structure, and who may touch it.

A connection (`Conn`) belongs to one `Worker`, its thread, from its acceptance to its end; only
that thread touches its sides, or a helper (`Conn.is_offloaded`) for a step of its
handshake.  The event loop reads its counts and its phase, reads the rest
when the worker has asked something or reported the end, and writes only through commands.
The loop gives it back (`C_RELEASE`) after the report of its end: no report, no question and
no command holds a pointer that can die.

Shared, each under its own lock, none held while another thread's is waited for longer than a
few instructions: `Inbox` (reports to the loop), a worker's commands, `Gate` (who is inside),
`Table` (leaves judged lately), `Terms.lock` (routes that stand), `Listener.lock`.  Order where
two are held: listener, gate, a worker's commands.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from uproxy.transport.native.system cimport pthread_cond_t, pthread_mutex_t, sockaddr_storage

cdef enum:
    RECEIVE = 64 * 1024
    BULK_RECEIVE = 256 * 1024  # from who fills the others, to who takes all of it
    THIN_RECEIVE = 8 * 1024  # from who sends KeyUpdates, each of which costs as much as a record
    RECORD = 16 * 1024 + 512
    PLAIN = BULK_RECEIVE + 2 * RECORD
    MAX_HELLO = 28 * 1024  # what somebody may make us keep who never finishes
    OWN_BACKLOG = 2 * BULK_RECEIVE  # what a side that goes on to send may leave unread
    KEPT_OUTPUT = 4 * 1024  # what an idle session's output buffer may hold
    EVENTS = 128
    MOST_STEPS = 2  # of handshakes, in one turn
    ACCEPTS = 16  # in one turn, so that a flood of arrivals leaves turns for the others
    MOST_OPTIONS = 8
    COMPANY = 8  # connections told of in one round, after which the next one takes its time
    CROWD = 256  # connections that something is to be told of, and nobody waits for more
    UNHEARD = 4096  # connections that have ended, and the loop is to hear of, at most

cdef enum:  # descriptions of alerts (RFC 8446 §6)
    ALERT_UNEXPECTED_MESSAGE = 10
    ALERT_RECORD_OVERFLOW = 22
    ALERT_HANDSHAKE_FAILURE = 40

cdef enum Kind:  # what an epoll event is about; the first word of each
    K_SIDE, K_LISTENER, K_BELL

cdef enum Phase:  # `_engine.PHASES` says which lifecycle.State each is
    P_ACCEPTED, P_HANDSHAKING_DOWNSTREAM, P_ADMITTING, P_CONNECTING, P_HANDSHAKING_UPSTREAM
    P_RELAYING, P_CLOSING, P_CLOSED
    PHASE_COUNT

cdef enum Mode:  # what the worker waits for
    M_NEW, M_ASKING, M_HELLO, M_SHAKING, M_CONNECTING, M_RELAYING, M_PARTING, M_DEAD

cdef enum Event:  # bits: several may wait.  Those that ask are told at once
    E_ARRIVED = 1  # asks for what `Door.tls` says
    E_SHAKEN = 2  # asks for a route
    E_ADMITTED = 4  # a route that stands was given
    E_FAR_READY = 8  # asks whether bytes may pass
    E_FAR_FAILED = 16  # asks for another candidate
    E_OPENED = 32  # a route that stands: bytes pass
    E_CLOSED = 64

cdef enum CommandKind:
    C_ADOPT, C_SHAKE_NEAR, C_WATCH, C_DIAL, C_RELAY, C_CUT, C_CUT_ALL, C_EVICT, C_RELEASE
    C_FORGET, C_STOP, C_OFFLOADED, C_RETURN

cdef enum Failure:  # `_engine.FAILURES` has the names that the loop knows them by
    F_NONE, F_CUT, F_OS, F_TLS, F_VERIFY, F_TIMEOUT, F_IDLE, F_HALF_CLOSED, F_SLOTS
    F_NO_HELLO, F_SHORT_HELLO, F_SHORT_HANDSHAKE, F_TRUNCATED, F_UNPROVEN, F_MEMORY
    F_AFTER_HANDSHAKE, F_UNASKED, F_FULL, F_SOURCE_FULL, F_EVICTED, F_EXCESS
    FAILURE_COUNT

cdef enum Verdict:
    V_NONE, V_ACCEPTED, V_REFUSED, V_DEFECT

cdef enum:  # what a peer may present; spiffe/presented.py has the reasons
    MAX_CHAIN = 10
    MAX_CHAIN_BYTES = 64 * 1024
    MAX_PARTS = 200
    MAX_NAME_PARTS = 80
    MAX_TEXT = 8 * 1024
    MAX_KEY = 4 * 1024
    MAX_REQUEST = 16 * 1024
    MAX_DEPTH = 24

cdef enum Excess:  # the numbers of spiffe.presented.Excess, as `_engine` checks
    X_NONE, X_CERTIFICATES, X_BYTES, X_PARTS, X_TEXT, X_KEY, X_MESSAGE, X_REQUEST, X_NOT_DER, X_NAME
    EXCESS_COUNT

cdef struct Presented:  # certificates inside a Certificate message, leaf first
    int count  # of which the first MAX_CHAIN are here
    const uint8_t *ders[MAX_CHAIN]
    size_t sizes[MAX_CHAIN]

cdef struct Place:  # an IP address, IPv4 as mapped, and a port in network order
    uint8_t host[16]
    uint16_t port
    bint known  # False on unix sockets

cdef struct Handshake:  # what both sides' handshakes are made with
    PyObject *context  # libssl.Context; whoever has this keeps it
    void *ssl_ctx  # without our key, for before and after; NULL in the clear
    void *identity  # the SSL_CTX with our key
    uint64_t trust
    bint client
    const char *server_name  # SNI, ours to send; NULL: none.  Lives as long as `context`

cdef struct Entry:  # a leaf that was judged good lately
    uint64_t hash
    uint64_t trust
    uint64_t serial  # the same for the same leaf and trust, while the table knows it
    size_t size
    uint8_t *leaf
    double expires  # wall clock
    PyObject *peer
    int held  # by the table and by connections
    Entry *chain  # the bucket's next
    Entry *newer
    Entry *older

cdef enum:
    BUCKETS = 1024
    MOST_ENTRIES = 1024

cdef struct Table:
    pthread_mutex_t lock
    Entry *buckets[BUCKETS]
    Entry *newest
    Entry *oldest
    int count
    uint64_t serial

cdef struct Standing:  # a route that stands, for whoever shows `serial` (and comes from `host`)
    uint64_t serial  # 0 where there is no TLS
    bint by_source
    uint8_t host[16]
    PyObject *route
    Handshake far
    sockaddr_storage target
    unsigned int target_size
    double connect
    double handshake
    double idle
    double half_close
    Standing *chain

cdef enum:
    STANDING_BUCKETS = 256
    MOST_STANDING = 1024

cdef struct Terms:  # what a door says until it is asked again; freed with the GIL
    int held
    PyObject *offer
    Handshake near
    bint ask  # it has no plan for now: each arrival asks
    double limit  # of the near handshake, seconds
    pthread_mutex_t lock
    Standing *buckets[STANDING_BUCKETS]
    int count

cdef struct Listener:
    int kind  # K_LISTENER
    int fd
    int held  # by the loop, workers and connections
    pthread_mutex_t lock
    Terms *terms  # replaced under the lock; NULL when closed
    bint closed
    bint paused
    int shortage  # errno, until the loop has taken it
    int undecided  # arrivals neither admitted nor refused

cdef struct Side:
    int kind  # K_SIDE
    int index
    Conn *conn
    int fd  # -1: none
    int mask  # what epoll reports; -1: not watched
    bint asked  # the other side wants to see our certificate: a server's is never optional
    bint had_to_ask  # a TLS 1.2 server has said all it says before our turn
    bint unasked  # refused, because it asked for no certificate
    bint hung_up
    bint ending  # we have said our end, or will behind the backlog
    bint corked  # the last bytes before our end wait for it, and go in one segment with it
    bint ended  # the peer's close_notify has come
    bint finished  # its socket's end too
    bint gone  # its socket has failed: what came before that is read, nothing is sent any more
    int error  # errno, if it is gone
    int failed  # F_TLS: what came next can't be read, and nothing can be encrypted any more
    unsigned long code  # OpenSSL's, if it has failed or its hello is refused
    bint midway  # part of a message of TLS itself has come: nothing is encrypted before the rest
    int appetite  # bytes to receive at once
    bint owns_context  # `shakes.context` was taken for this connection alone
    Handshake shakes
    void *ssl
    void *output  # the session's memory BIO, which it owns
    bint fat  # the output has grown, and is to shrink when the side is quiet
    bint used  # since the last look for fat ones
    Side *next_fat
    char *backlog  # in the clear; under TLS it stays in `output`
    size_t backlog_at
    size_t backlog_size  # of either
    char *early  # plaintext that came with the handshake's end, or a hello that isn't whole
    size_t early_size
    size_t record_at  # of a hello: where the record begins that isn't all there
    size_t message_size  # its message's bytes in the records before
    uint8_t message[4]  # its message's header
    size_t message_known
    int alert  # that refuses a hello; 0: none
    PyObject *judged  # with the GIL: the verdict's words where there is no entry
    Entry *entry
    bint greeted  # its hello has been read
    int verdict
    int x509_error

cdef struct Fault:  # why something failed
    int what  # a Failure
    int side
    int error  # errno
    unsigned long code  # OpenSSL's

cdef struct Conn:
    Worker *worker
    Worker *running_on  # whose buffers are used: the worker's, or a helper's (`offload`)
    bint is_offloaded  # to a helper: the worker doesn't touch its sides
    int deferred_failure  # why it is to end, which came up while it was offloaded; F_NONE
    Listener *listener
    Terms *terms
    Standing *standing  # of `terms`; NULL where the loop gave the route
    Side sides[2]  # near, far
    int mode
    int phase
    int decided  # admitted or refused
    bint has_slot
    bint flow_ended[2]
    int64_t counts[2]  # application bytes from near, from far
    Place source
    Place local
    double accepted  # monotonic seconds, as all but `expires`
    double finished
    double started  # of the handshake
    double due  # 0: no deadline
    double last  # something moved
    double lost_at  # when the first side failed while bytes passed; 0: none has
    int queued  # bytes that the kernel hadn't delivered when it was last asked
    double settles  # when it counts as one that stays; 0: it does
    double limits[2]  # idle, half-closed; of the handshake while connecting: [0]
    Py_ssize_t heap  # where it is in the worker's heap; -1: nowhere
    Fault fault  # of its end, or of the candidate that is tried
    Fault missed  # of the last candidate: the loop reads it while the near side may fail
    double shook  # seconds
    const char *version  # OpenSSL's constants
    const char *cipher
    const char *group
    Conn *before  # of the worker's
    Conn *after
    # under the gate's lock
    bint inside
    bint silent
    Conn *silent_before
    Conn *silent_after
    # under the inbox's lock
    int events
    Conn *event_before
    Conn *event_after
    PyObject *handle

cdef struct Source:  # who has how many connections: an IPv4 address, or an IPv6 network
    uint8_t host[16]
    int count
    Source *chain

cdef enum:
    SOURCE_BUCKETS = 512

cdef struct Gate:
    pthread_mutex_t lock
    int most
    int most_per_source  # 0: no limit
    int inside
    int64_t full  # refused, or sent away
    int64_t source_full
    Conn *silent_first  # the longest
    Conn *silent_last
    Source *sources[SOURCE_BUCKETS]
    uint64_t keys[5]  # random, so that nobody can choose addresses that share a bucket
    # not under the lock
    int slots  # handshakes in flight
    int most_slots
    int64_t no_slot

cdef struct Command:
    int kind
    Conn *conn
    Listener *listener
    int fd
    sockaddr_storage target
    unsigned int target_size  # 0: `fd` is connected
    double limit
    double other_limit
    char *data
    size_t size
    int result  # C_RETURN: what the step came to
    Command *next

cdef struct Inbox:  # of the loop
    pthread_mutex_t lock
    Conn *first
    Conn *last
    int waiting  # connections that something is to be told of
    double busy  # when the loop last took as many reports as make company
    bint rung
    int bell

cdef struct Option:
    int level
    int name
    int value

ctypedef void (*judge_t)(Side *, Presented *) noexcept nogil

cdef enum:
    MOST_HELPERS = 32

cdef struct Helpers:  # threads that do steps of handshakes while uncached peers come
    pthread_mutex_t lock
    pthread_cond_t changed  # a step waits, or a helper has ended
    Command *first
    Command *last
    int waiting  # steps
    int idle  # helpers
    int count
    Worker *all[MOST_HELPERS]
    bint stopping
    pthread_mutex_t judging  # so that one at a time contends with the loop for the GIL

cdef struct Shared:  # by all workers
    Inbox inbox
    Gate gate
    Table table
    Worker **workers
    int count
    Helpers helpers
    int64_t uncached_came  # when a caller's leaf had to be judged; monotonic milliseconds
    Option options[MOST_OPTIONS]  # of TCP sockets that are dialled
    int option_count
    int alive  # connections that the loop hasn't given back
    judge_t judge

cdef struct Worker:
    int kind  # K_BELL
    Shared *shared
    int epoll
    int bell
    pthread_mutex_t lock
    Command *first
    Command *last
    bint stopping
    int load  # connections
    double now
    double ring_due  # when the loop is to hear of quiet reports; 0: none wait
    double slim_due
    int64_t busy_since  # milliseconds; 0: waiting
    Conn *conns
    Side *fat
    Conn **heap
    Py_ssize_t heap_size
    Py_ssize_t heap_room
    char received[BULK_RECEIVE]
    char plain[PLAIN]
