"""What the engine is made of: every structure, and who may touch it.

A connection (`Connection`) belongs to one `Worker`, its thread, from its acceptance to its end; only
that thread touches its sides, or a helper (`Connection.is_offloaded`) for a step of its
handshake.  The event loop reads its counts and its phase, reads the rest
when the worker has asked something or reported the end, and writes only through commands.
The loop gives it back (`C_RELEASE`) after the report of its end: no report, no question and
no command holds a pointer that can die.

Shared, each under its own lock, none held while another thread's is waited for longer than a
few instructions: `ReportQueue` (reports to the loop), a worker's commands, `LimitState` (who is inside),
`VerifyCache` (leaves judged lately), `DoorState.lock` (routes that stand), `Listener.lock`.  Order where
two are held: listener, gate, a worker's commands.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from uproxy.transport.native.system cimport pthread_cond_t, pthread_mutex_t, sockaddr_storage

cdef enum:
    RECEIVE_SIZE = 64 * 1024
    LARGE_RECEIVE_SIZE = 256 * 1024  # from who fills the others, to who takes all of it
    SMALL_RECEIVE_SIZE = 8 * 1024  # from who sends KeyUpdates, each of which costs as much as a record
    RECORD_SIZE = 16 * 1024 + 512
    PLAINTEXT_SIZE = LARGE_RECEIVE_SIZE + 2 * RECORD_SIZE
    MAX_HELLO = 28 * 1024  # what somebody may make us keep who never finishes
    MAX_OWN_UNSENT = 2 * LARGE_RECEIVE_SIZE  # what a side that goes on to send may leave unread
    MAX_IDLE_OUTPUT = 4 * 1024  # what an idle session's output buffer may hold
    MAX_EVENTS = 128
    MAX_HANDSHAKE_STEPS = 2  # of handshakes, in one turn
    MAX_ACCEPTS = 16  # in one turn, so that a flood of arrivals leaves turns for the others
    MAX_OPTIONS = 8
    LARGE_BATCH = 8  # connections told of in one round, after which the next one takes its time
    MAX_DELAYED_REPORTS = 256  # connections that something is to be told of, and nobody waits for more
    MAX_UNREPORTED = 4096  # connections that have ended, and the loop is to hear of, at most

cdef enum:  # descriptions of alerts (RFC 8446 §6)
    ALERT_UNEXPECTED_MESSAGE = 10
    ALERT_RECORD_OVERFLOW = 22
    ALERT_HANDSHAKE_FAILURE = 40
    ALERT_ILLEGAL_PARAMETER = 47

cdef enum Kind:  # what an epoll event is about; the first word of each
    K_SIDE, K_LISTENER, K_BELL

cdef enum Phase:  # `_engine.PHASES` says which lifecycle.State each is
    P_ACCEPTED, P_HANDSHAKING_DOWNSTREAM, P_ADMITTING, P_CONNECTING, P_HANDSHAKING_UPSTREAM
    P_RELAYING, P_CLOSING, P_CLOSED
    STATE_COUNT

cdef enum Mode:  # what the worker waits for
    M_NEW, M_ASKING, M_HELLO, M_SHAKING, M_CONNECTING, M_RELAYING, M_PARTING, M_DEAD

cdef enum Event:  # bits: several may wait.  Those that ask are told at once
    E_ARRIVED = 1  # asks for what `Door.tls` says
    E_HANDSHAKEN = 2  # asks for a route
    E_ADMITTED = 4  # a route that stands was given
    E_UPSTREAM_READY = 8  # asks whether bytes may pass
    E_UPSTREAM_FAILED = 16  # asks for another candidate
    E_OPENED = 32  # a route that stands: bytes pass
    E_CLOSED = 64

cdef enum CommandKind:
    C_ADOPT, C_HANDSHAKE, C_WATCH_LOSS, C_DIAL, C_RELAY, C_CUT, C_CUT_ALL, C_EVICT, C_RELEASE
    C_RELEASE_LISTENER, C_STOP, C_STEP, C_STEP_DONE

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
    MAX_EXTENSIONS = 20
    MAX_TEXT = 8 * 1024
    MAX_KEY = 4 * 1024
    MAX_CLIENT_HELLO = 8 * 1024
    MAX_REQUEST = 16 * 1024
    MAX_DEPTH = 24

cdef enum Excess:  # the numbers of spiffe.presented.Excess, as `_engine` checks
    X_NONE, X_CERTIFICATES, X_BYTES, X_PARTS, X_TEXT, X_KEY, X_MESSAGE, X_REQUEST, X_NOT_DER, X_NAME,
    X_EXTENSIONS
    EXCESS_COUNT

cdef struct Presented:  # certificates inside a Certificate message, leaf first
    int count  # of which the first MAX_CHAIN are here
    const uint8_t *ders[MAX_CHAIN]
    size_t sizes[MAX_CHAIN]

cdef struct Endpoint:  # an IP address, IPv4 as mapped, and a port in network order
    uint8_t host[16]
    uint16_t port
    bint known  # False on unix sockets

cdef struct TlsSetup:  # what both sides' handshakes are made with
    PyObject *context  # libssl.Context; whoever has this keeps it
    void *ssl_ctx  # without our key, for before and after; NULL in the clear
    void *identity  # the SSL_CTX with our key
    uint64_t trust
    bint client
    const char *server_name  # SNI, ours to send; NULL: none.  Lives as long as `context`

cdef struct VerifiedPeer:  # a leaf that was judged good lately
    uint64_t hash
    uint64_t trust
    uint64_t serial  # the same for the same leaf and trust, while the table knows it
    size_t size
    uint8_t *leaf
    double expires  # wall clock
    PyObject *peer
    int held  # by the table and by connections
    VerifiedPeer *chain  # the bucket's next
    VerifiedPeer *newer
    VerifiedPeer *older

cdef enum:
    VERIFIED_BUCKETS = 1024
    MAX_VERIFIED_PEERS = 1024
    HASHED = 64  # bytes of a leaf
    HASH_KEYS = 9  # one more than words in those

cdef struct VerifyCache:
    pthread_mutex_t lock
    VerifiedPeer *buckets[VERIFIED_BUCKETS]
    uint64_t keys[HASH_KEYS]  # random, for the hash
    VerifiedPeer *newest
    VerifiedPeer *oldest
    int count
    uint64_t serial

cdef struct CachedRoute:  # a route that stands, for whoever shows `serial` (and comes from `host`)
    uint64_t serial  # 0 where there is no TLS
    bint by_source
    uint8_t host[16]
    PyObject *route
    TlsSetup upstream
    sockaddr_storage target
    unsigned int target_size
    double connect
    double handshake
    double idle
    double half_close
    CachedRoute *chain

cdef enum:
    ROUTE_BUCKETS = 256
    MAX_CACHED_ROUTES = 1024

cdef struct DoorState:  # what a door says until it is asked again; freed with the GIL
    int held
    PyObject *python
    TlsSetup downstream
    bint ask  # it has no plan for now: each arrival asks
    double limit  # of the downstream handshake, seconds
    pthread_mutex_t lock
    CachedRoute *buckets[ROUTE_BUCKETS]
    int count

cdef struct Listener:
    int kind  # K_LISTENER
    int fd
    int held  # by the loop, workers and connections
    pthread_mutex_t lock
    DoorState *door_state  # replaced under the lock; NULL when closed
    bint closed
    bint paused
    int shortage  # errno, until the loop has taken it
    int undecided  # arrivals neither admitted nor refused

cdef struct Side:
    int kind  # K_SIDE
    int index
    Connection *connection
    int fd  # -1: none
    int mask  # what epoll reports; -1: not watched
    bint own_certificate_asked  # the other side wants to see our certificate: a server's is never optional
    bint tls12_server_done  # a TLS 1.2 server has said all it says before our turn
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
    int receive_size  # bytes to receive at once
    bint owns_context  # `shakes.context` was taken for this connection alone
    TlsSetup tls_setup
    void *ssl
    void *output  # the session's memory BIO, which it owns
    bint large_outputs  # the output has grown, and is to shrink when the side is quiet
    bint output_used  # since the last look for fat ones
    Side *next_large_output
    char *backlog  # in the clear; under TLS it stays in `output`
    size_t backlog_at
    size_t unsent  # of either
    char *early  # plaintext that came with the handshake's end, or a hello that isn't whole
    size_t early_size
    size_t record_at  # of a hello: where the record begins that isn't all there
    size_t message_size  # its message's bytes in the records before
    uint8_t message[4]  # its message's header
    size_t message_known
    int alert  # that refuses a hello; 0: none
    PyObject *refused_with  # with the GIL: the verdict's words where there is no entry
    VerifiedPeer *verified_peer
    bint hello_read  # its hello has been read
    int verdict
    int x509_error

cdef struct Fault:  # why something failed
    int what  # a Failure
    int side
    int error  # errno
    unsigned long code  # OpenSSL's

cdef struct Connection:
    Worker *worker
    Worker *running_on  # whose buffers are used: the worker's, or a helper's (`offload`)
    bint is_offloaded  # to a helper: the worker doesn't touch its sides
    int deferred_failure  # why it is to end, which came up while it was offloaded; F_NONE
    Listener *listener
    DoorState *door_state
    CachedRoute *cached_route  # of `terms`; NULL where the loop gave the route
    Side sides[2]  # downstream, upstream
    int mode
    int state
    int decided  # admitted or refused
    bint has_slot
    bint flow_ended[2]
    int64_t counts[2]  # application bytes from downstream, from upstream
    Endpoint source
    Endpoint local
    double accepted  # monotonic seconds, as all but `expires`
    double finished
    double started  # of the handshake
    double due  # 0: no deadline
    double last_moved  # something moved
    double lost_at  # when the first side failed while bytes passed; 0: none has
    int undelivered  # bytes that the kernel hadn't delivered when it was last asked
    double trim_at  # when it counts as one that stays; 0: it does
    double time_limits[2]  # idle, half-closed; of the handshake while connecting: [0]
    Py_ssize_t heap  # where it is in the worker's heap; -1: nowhere
    Fault fault  # of its end, or of the candidate that is tried
    Fault candidate_fault  # of the last candidate: the loop reads it while the downstream side may fail
    double handshake_seconds  # seconds
    const char *version  # OpenSSL's constants
    const char *cipher
    const char *group
    Connection *before  # of the worker's
    Connection *after
    # under the gate's lock
    bint inside
    bint silent
    Connection *silent_before
    Connection *silent_after
    # under the inbox's lock
    int events
    Connection *event_before
    Connection *event_after
    PyObject *handle

cdef struct Source:  # who has how many connections: an IPv4 address, or an IPv6 network
    uint8_t host[16]
    int count
    Source *chain

cdef enum:
    SOURCE_BUCKETS = 512

cdef struct LimitState:
    pthread_mutex_t lock
    int most
    int most_per_source  # 0: no limit
    int inside
    int64_t full  # refused, or sent away
    int64_t source_full
    Connection *silent_first  # the longest
    Connection *silent_last
    Source *sources[SOURCE_BUCKETS]
    uint64_t keys[5]  # random, so that nobody can choose addresses that share a bucket
    # not under the lock
    int slots  # handshakes in flight
    int most_slots
    int64_t no_slot

cdef struct Command:
    int kind
    Connection *connection
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

cdef struct ReportQueue:  # of the loop
    pthread_mutex_t lock
    Connection *first
    Connection *last
    int waiting  # connections that something is to be told of
    double last_large_batch  # when the loop last took as many reports as make company
    bint rung
    int bell

cdef struct Option:
    int level
    int name
    int value

ctypedef void (*ask_verifier_t)(Side *, Presented *) noexcept nogil

cdef enum:
    MAX_HELPERS = 32

cdef struct Helpers:  # threads that do steps of handshakes while uncached peers come
    pthread_mutex_t lock
    pthread_cond_t changed  # a step waits, or a helper has ended
    Command *first
    Command *last
    int waiting  # steps
    int idle  # helpers
    int count
    Worker *all[MAX_HELPERS]
    bint stopping
    pthread_mutex_t verifying  # so that one at a time contends with the loop for the GIL

cdef struct Shared:  # by all workers
    ReportQueue reports
    LimitState limits
    VerifyCache verify_cache
    Worker **workers
    int count
    Helpers helpers
    int64_t uncached_came  # when a caller's leaf had to be judged; monotonic milliseconds
    Option options[MAX_OPTIONS]  # of TCP sockets that are dialled
    int option_count
    int alive  # connections that the loop hasn't given back
    ask_verifier_t judge

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
    double shrink_at
    int64_t busy_since  # milliseconds; 0: waiting
    Connection *connections
    Side *large_outputs
    Connection **heap
    Py_ssize_t heap_size
    Py_ssize_t heap_room
    char received[LARGE_RECEIVE_SIZE]
    char plain[PLAINTEXT_SIZE]
