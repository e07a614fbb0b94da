# Over 400 lines, because structures that point to each other have to be in one page.
"""Every structure of the engine, and which thread may touch it.

A `Connection` belongs to one `Worker` (a thread) from its acceptance to its end.  Only that thread
touches its sides; while `Connection.is_offloaded` only a helper does.  The event loop reads the
counts and the state at any time, the rest when the worker has asked something or has reported
the end; it changes the connection through commands only.  The memory is freed when the loop has
said so (C_RELEASE), after the report of the end: no report and no command points to freed memory.

Shared between threads, each under a lock of its own: `ReportQueue`, a worker's commands,
`LimitState`, `VerifyCache`, `DoorState` (cached routes), `Listener`.  No lock is held longer than
a few instructions, `LimitState`'s than a few recv.  Where a thread holds two, it took them in the
order listener, limits, commands.

Times are monotonic seconds unless a field says otherwise, sizes are bytes, and 0 is no limit.  A
side's *end* is that it sends no more: a close_notify under TLS, a FIN without.  `kind` is the first
field of what epoll's `data.ptr` points to, and tells which structure that is.  In a Connection, of
which there are many, fields are sized and ordered so that the compiler leaves few holes.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from uproxy.transport.native.system cimport (
    flag, pthread_cond_t, pthread_mutex_t, sockaddr_storage,
)
from uproxy.transport.native.presented cimport Presented
from uproxy.transport.native.hpack cimport Headers
from uproxy.transport.native.streams cimport H2Stream, Session, SessionCalls, SessionSettings
from uproxy.transport.native.codes cimport (
    HASH_KEYS, LARGE_RECEIVE_SIZE, MAX_AUTHORITY, MAX_HELPERS, MAX_OPTIONS, MAX_SHOWN,
    PLAINTEXT_SIZE,
    ROUTE_BUCKETS, SOURCE_BUCKETS, TUNNEL_BUCKETS, VERIFIED_BUCKETS,
)

cdef struct Endpoint:  # an IP address (IPv4 mapped into IPv6) and a port in network order
    uint8_t host[16]
    uint16_t port
    flag known  # False on unix sockets

cdef struct Fault:  # why something failed
    uint8_t what  # a Failure
    uint8_t side  # 0 downstream, 1 upstream
    int error  # errno; for F_EXCESS an Excess
    unsigned long code  # OpenSSL's error; for F_EXCESS how much there was

cdef struct TlsSetup:  # what a side's handshakes are made with
    PyObject *context  # libssl.Context, held by whoever has this
    void *ssl_ctx  # SSL_CTX without our key, for before and after the handshake; NULL: no TLS
    void *identity  # SSL_CTX with our key, for the handshake
    uint64_t trust  # TlsPlan.trust_id: where it is equal, the same chains are accepted
    bint client  # whether we are the TLS client
    const char *server_name  # SNI to send, or NULL.  Lives as long as `context`

cdef struct TunnelLimits:  # model.TunnelSettings
    uint32_t most  # streams that may be open on a tunnel; 0: there are no tunnels
    uint32_t stream_window
    uint32_t connection_window
    double idle  # seconds; 0: none
    double expires  # when our SVID does, wall clock, seconds; 0: not known
    double keepalive  # seconds in which a peer may say nothing, and then not answer; 0: any

cdef struct Way:  # how a stream is opened
    uint64_t plan  # a number for the TlsPlan; only tunnels that were dialled with it are used
    TunnelLimits limits
    char authority[MAX_AUTHORITY]  # of the CONNECT
    size_t authority_size
    char *fields  # of the CONNECT beside those that it must have, written by HPACK; owned
    size_t fields_size
    double end_delay  # seconds that our END_STREAM waits for the peer's; 0: it doesn't

cdef struct Unnamed:  # why a request on a tunnel was refused without a stream
    int why  # a SessionFault
    uint32_t most  # streams that the peer may have open
    size_t size
    char value[MAX_SHOWN]  # of the field that is wrong: its first `size` bytes

cdef struct VerifiedPeer:  # a leaf certificate that the verifier has accepted, and its answer
    uint64_t hash  # of `leaf` and `trust`
    uint64_t trust  # TlsSetup.trust under which it was accepted
    uint64_t serial  # the same for the same leaf and trust, while the cache knows it
    size_t size
    uint8_t *leaf  # DER, `size` bytes
    double expires  # wall clock, seconds
    double not_after  # when the first certificate of the chain expires, wall clock, seconds
    PyObject *peer  # contract.PeerSvid
    int held  # references: the cache's and the connections'
    VerifiedPeer *chain  # next in the bucket
    VerifiedPeer *newer  # in the order of use
    VerifiedPeer *older

cdef struct VerifyCache:
    pthread_mutex_t lock
    VerifiedPeer *buckets[VERIFIED_BUCKETS]
    uint64_t keys[HASH_KEYS]  # random, for the hash
    VerifiedPeer *newest  # the one used last
    VerifiedPeer *oldest
    int count  # entries
    uint64_t serial  # the last one given

cdef struct CachedRoute:  # where callers go that show one leaf
    uint64_t serial  # of a VerifiedPeer; 0 without TLS
    bint by_source  # only for callers from `host`
    uint8_t host[16]
    bint by_meant  # only for those that are meant for the address `meant`
    Endpoint meant
    bint by_local  # only for those that arrived at `local`
    Endpoint local
    PyObject *route  # contract.Route
    TlsSetup upstream  # of the handshake with `target`
    sockaddr_storage target  # the address to dial
    unsigned int target_size
    Way way  # through a tunnel that ends at `target`; its `limits.most` is 0: there is none
    double connect  # time limits, seconds; 0: none
    double handshake
    double idle
    double half_close
    CachedRoute *chain  # next in the bucket

cdef struct DoorState:  # how a listener's new connections begin, under one snapshot
    int held  # references: the listener's and the connections'; the last is released with the GIL
    PyObject *python  # native.listener.DoorState
    TlsSetup downstream  # of the handshakes with callers; empty if the door has no plan for them
    bint tls  # callers make a handshake; if `downstream` is empty, E_ARRIVED follows the first byte
    bint ask  # E_ARRIVED comes first of all
    double limit  # of the downstream handshake, seconds
    bint captured  # capture brings connections here: what each was meant for is asked
    bint by_port  # `tls` is true only at ports of `tls_ports`
    uint16_t *tls_ports  # of what a connection was meant for, in network order
    int tls_port_count
    int migrating_count  # so many of them, the first, admit callers in clear too
    bint unmarked  # captured connections have no mark here: what has it is a dial of our own
    TunnelLimits tunnels  # that callers make; if there are any, a CONNECT is an arrival
    pthread_mutex_t lock  # of the cached routes
    CachedRoute *buckets[ROUTE_BUCKETS]
    int count  # routes

cdef struct Listener:
    int kind  # K_LISTENER
    int fd  # of the listening socket
    uint16_t port  # in network order; 0 on unix sockets
    int held  # references: the loop's, the workers' and the connections'
    pthread_mutex_t lock
    DoorState *door_state  # replaced under the lock; NULL when closed
    bint closed
    bint paused  # nothing is accepted until ListenerHandle.resume
    int shortage  # errno for which accepting paused, until the loop has taken it
    int undecided  # connections neither admitted nor refused

cdef struct Channel:  # a socket and the TLS session on it
    int kind  # K_CHANNEL
    int fd  # -1: none
    Worker *worker  # whose epoll watches it
    Worker *running_on  # whose buffers are used: `worker`, or a helper
    Side *side  # that owns it; NULL: a carrier does
    Fault *fault  # where the first failure is recorded
    int mask  # epoll interest; -1: not registered
    int receive_size  # bytes that the next recv asks for
    flag hung_up  # epoll has reported a hang-up
    flag ending  # our end was sent, or goes out behind the unsent bytes
    flag corked  # the last bytes wait for our end, to share its segment
    flag ended  # the peer's close_notify has been read
    flag finished  # the end of the socket has been read
    flag gone  # the socket has failed: what came before is read, nothing is sent
    flag midway  # a TLS handshake message has come in part: SSL_write would wait for its rest
    flag has_large_output  # it is in Worker.large_outputs
    int error  # errno, if it is gone
    int failed  # F_TLS: nothing more can be decrypted or encrypted
    unsigned long code  # OpenSSL's error, if TLS failed or the ClientHello was refused
    char *plaintext  # where bytes are decrypted to; NULL: the thread's `plaintext`
    void *ssl
    void *output  # memory BIO of the session, which owns it: records to be sent
    Channel *next_large_output
    char *backlog  # bytes that the socket didn't take, without TLS
    size_t backlog_at  # where they begin
    size_t unsent  # bytes in `backlog`, or in `output`
    char *early  # plaintext that came with the end of the handshake, or an incomplete ClientHello
    uint32_t early_size
    # of the ClientHello (client_hello.pxd)
    uint32_t record_at  # offset, in all bytes received, of the first incomplete record
    uint32_t message_size  # bytes of the message in the complete records
    uint8_t message[4]  # the message's header, as far as complete records have it
    uint8_t message_known  # bytes of `message` that are set
    uint8_t alert  # description of the alert that refuses the ClientHello; 0: none
    # of the handshake
    flag output_used  # the output was large since shrink_outputs looked last
    flag own_certificate_asked  # the peer asked for our certificate; always true on a server
    flag tls12_server_done  # a TLS 1.2 ServerHelloDone has come
    flag unasked  # the handshake is refused because the peer didn't ask for our certificate
    flag hello_read  # OpenSSL has read the peer's hello
    uint8_t verdict  # a Verdict
    int x509_error  # X509_V_ERR_…, given to OpenSSL, which makes an alert of it
    int owned_contexts  # references to `tls_setup.context` that are this connection's
    TlsSetup tls_setup
    PyObject *refused_with  # the verifier's exception, if it refused; owned, freed with the GIL
    VerifiedPeer *verified_peer  # if it accepted; a reference

cdef struct Received:  # what read_side has read
    char *data  # application bytes, valid until the next read_side on this thread
    bint more  # there may be more to read now
    int end  # an End (side.pxd): whether the peer's end follows these bytes

cdef struct Stream:  # the progress of a side that borrows a channel; its carrier sets the fields
    Carrier *carrier
    size_t unsent  # bytes accepted by `write` that aren't sent
    size_t undelivered  # bytes sent that a reset would drop
    bint is_ready  # `read` has something to return without an event
    bint is_blocked  # nothing may be written until more has been read
    bint is_deaf  # nothing can be written any more
    # of a tunnel (stream.pxd)
    Tunnel *tunnel  # on which it is, or for which it waits; NULL: none
    H2Stream *h2  # NULL: it isn't open on the tunnel
    Side *before  # in Tunnel.open, or in Tunnel.waiting
    Side *after
    bint is_content  # the peer has ended, and wants no more bytes of ours
    bint is_finished  # our end was written
    bint is_stranded  # lost with its tunnel to an L7 proxy, and nothing of it waits to be read
    double read_at  # when bytes were read last
    double end_delay  # as Way.end_delay
    double end_held_at  # since when our end waits for the peer's; 0: it doesn't
    double wrote_at  # when bytes were written last

cdef struct Carrier:  # what a side calls that borrows a channel; side.pxd has the return codes
    ssize_t (*read)(Side *, Received *) noexcept nogil
    int (*write)(Side *, const char *, size_t, int) noexcept nogil
    int (*finish)(Side *) noexcept nogil
    int (*want)(Side *, bint, bint) noexcept nogil
    void (*abandon)(Side *) noexcept nogil
    void (*reset)(Side *) noexcept nogil
    void (*close)(Side *, bint) noexcept nogil

cdef struct Side:  # one end of a relay
    int index  # 0 downstream (who dialled us), 1 upstream (whom we dialled)
    Connection *connection
    Channel channel
    Stream *stream  # NULL: the side owns `channel`

cdef struct Tunnel:  # a connection that carries streams
    Session session  # HTTP/2
    Connection *connection
    Side *side  # its side with the channel
    TunnelLimits limits
    Side *open  # streams, the one that was opened last first
    Side *waiting  # upstream sides that are to become streams when it is ready
    Side *last_waiting
    int waiting_count
    bint is_ready  # its handshake has ended
    bint is_retired  # it gets no new streams, and ends with the last one
    bint is_proving  # nothing has come for long: its PING's answer is awaited
    bint is_dirty  # it is in Worker.dirty
    bint is_over  # nothing is sent or received any more
    bint was_used  # a stream was opened
    bint has_answered  # its far end has answered a CONNECT of ours
    bint is_spare  # it may be closed to make room for another connection
    Tunnel *next_dirty
    double heard_at  # when something has come last
    double asked_at  # when a peer that had been silent was asked last whether it is there
    double empty_since  # when it has had no streams; 0: it has some
    double final_at  # when the GOAWAY with the last stream's number is due; 0: it isn't
    double proved_by  # when the PING must be answered
    double closed_by  # when what is unsent is given up; 0: it isn't closing
    double lingers_until  # when a peer has had time to read why, or the last bytes; 0: it doesn't
    double expires  # when a certificate of its handshake does, wall clock, seconds; 0: not known
    uint64_t plan  # as Way.plan
    sockaddr_storage end  # its far end's address
    unsigned int end_size
    const char *server_name  # SNI of its handshake, only to be compared
    Tunnel **bucket  # in which it is pooled; NULL: it isn't
    Tunnel *next_pooled

cdef struct Connection:
    Worker *worker
    Listener *listener
    DoorState *door_state
    CachedRoute *cached_route  # of `door_state`; NULL where the loop gave the route
    Side sides[2]
    int state  # a StateNumber
    int decided  # 1: it was admitted or refused
    uint8_t ended_in  # the state before S_CLOSED
    uint8_t waits_for  # a Wait
    uint8_t deferred_failure  # why it must end when the helper is done: a Failure, or F_NONE
    flag is_offloaded  # a helper does a step of its downstream handshake
    flag flow_ended[2]  # nothing more is read from this side: its end has come, or it has failed
    flag in_clear  # it makes no handshake with its caller, whatever the door's others do
    flag may_be_clear  # its first byte tells
    int64_t counts[2]  # application bytes received from each side
    Endpoint source
    Endpoint local
    Endpoint dialled_from  # our address on the upstream side, once connected
    Endpoint meant  # what its CONNECT names, a captured one was made to, a pooled tunnel leads to
    Connection *carried_by  # of a stream that the peer has opened: the connection with the tunnel
    Unnamed *unnamed  # if its CONNECT names no address
    char *spoken  # what it says of a caller (spoken.pxd), until the loop has taken it; or NULL
    Tunnel *tunnel  # that it carries; NULL: none
    Way *way  # of the stream that is being opened; NULL: upstream is no tunnel
    Way *own_way  # the same, if it isn't a cached route's
    int streams  # open on the tunnel
    int strandings  # how often the tunnel that its stream was on was lost before a byte passed
    int refused_with_status  # HTTP status for the CONNECT; 0: none is decided
    flag is_pooled  # we have dialled it, as a tunnel for several connections
    flag shares_tls  # another connection's handshake with the same peer serves it too
    flag inside  # it counts as a connection; under LimitState.lock, as is the next one
    flag has_slot  # it counts as a handshake in flight
    double accepted_at
    double finished_at  # when its sockets were closed
    double handshake_started
    double due  # the deadline; 0: none
    double last_moved  # when bytes moved last
    double lost_at  # when the first side failed while relaying; 0: none has
    double trim_at  # when to free handshake memory; 0: done
    double connect_limit  # of the answer to a CONNECT, seconds; 0: none
    double handshake_limit  # of the upstream handshake, seconds; 0: none
    double relay_limits[2]  # idle, half-closed; seconds; 0: none
    int undelivered  # bytes in the kernel's two send queues when it was asked last
    int heap  # position in the worker's heap; -1: none
    Fault fault  # why it ends; while upstream is dialled, why the present candidate failed
    Fault candidate_fault  # of the last candidate, for the loop to read
    double handshake_seconds  # duration of the last handshake that succeeded, and its:
    const char *version  # constants of OpenSSL
    const char *cipher
    const char *group
    Connection *before  # in Worker.connections
    Connection *after
    # under LimitState.lock
    AwaitedList *awaited_in  # LimitState.silent, .spare or .stalled; NULL: it may not be evicted
    Connection *awaited_before  # in that list
    Connection *awaited_after
    int times_heard  # how often its peer was awaited in the handshake
    # under ReportQueue.lock
    int events  # bits of Event that the loop hasn't taken
    Connection *event_before  # in ReportQueue
    Connection *event_after
    PyObject *handle  # native.handle.NativeConnection; NULL before the first report is taken

cdef struct Source:  # how many connections an IPv4 address, or an IPv6 /64, has
    uint8_t host[16]
    int count
    Source *chain  # next in the bucket

cdef struct AwaitedList:  # connections of which nothing has come for so long
    Connection *first  # for the longest
    Connection *last

cdef struct LimitState:
    pthread_mutex_t lock
    int most  # connections
    int most_per_source
    int inside  # connections now
    int64_t full  # connections refused, or evicted, for want of room
    int64_t source_full  # connections refused because their source has most_per_source
    int64_t no_slot  # handshakes refused, or evicted, for want of a slot
    AwaitedList silent
    AwaitedList spare  # tunnels of peers that have no streams
    AwaitedList stalled  # handshakes in flight of which no step is being done
    int slots  # handshakes in flight now
    int most_slots
    Source *sources[SOURCE_BUCKETS]
    uint64_t keys[5]  # random, so that nobody can choose addresses that share a bucket

cdef struct Command:
    int kind  # a CommandKind
    Connection *connection
    Listener *listener
    int fd
    sockaddr_storage target
    unsigned int target_size  # 0: `fd` is connected
    double limit  # seconds: C_HANDSHAKE handshake, C_DIAL connect, C_RELAY idle
    double other_limit  # seconds: C_DIAL handshake, C_RELAY half_close
    char *data  # C_RELAY: the preface, freed with the command
    size_t size
    int result  # C_STEP_DONE: what the step returned; C_CUT: HTTP status for a CONNECT
    Way *way  # C_DIAL: of a stream; NULL: none.  Freed with the command
    uint64_t plan  # C_RETIRE: as Way.plan
    Command *next

cdef struct ReportQueue:  # from the workers to the loop
    pthread_mutex_t lock
    Connection *first
    Connection *last
    int waiting  # connections in it
    double last_large_batch  # when the loop last took LARGE_BATCH reports or more
    bint rung  # `bell` was rung since the loop took reports last
    int bell  # eventfd that wakes the loop

cdef struct Option:  # arguments of setsockopt
    int level
    int name
    int value

ctypedef void (*ask_verifier_t)(Channel *, Presented *) noexcept nogil
ctypedef void (*share_refusal_t)(Channel *, Channel *) noexcept nogil

cdef struct Helpers:  # threads that do steps of handshakes while uncached peers come
    pthread_mutex_t lock
    pthread_cond_t changed  # a step waits, or a helper has ended
    Command *first
    Command *last
    int waiting  # steps
    int idle  # helpers
    int count  # helpers, busy ones too
    Worker *all[MAX_HELPERS]
    bint stopping
    pthread_mutex_t verifying  # so that one at a time contends with the loop for the GIL

cdef struct Shared:  # by all workers
    ReportQueue reports
    LimitState limits
    VerifyCache verify_cache
    Worker **workers
    int count  # workers
    Helpers helpers
    int64_t uncached_came  # when the last uncached caller was verified; monotonic milliseconds
    Option options[MAX_OPTIONS]  # of TCP sockets that are dialled
    int option_count
    int alive  # connections that the loop hasn't released
    ask_verifier_t ask_verifier
    share_refusal_t share_refusal
    Carrier stream_calls  # of the sides that are streams of tunnels
    SessionCalls session_calls
    int pooled_tunnels  # that are open
    int extra_windows  # bytes by which the windows of streams have grown, on all tunnels

cdef struct StreamLimit:  # what a far end of tunnels has said
    uint64_t end  # a hash of its address
    int most  # streams that it allows on a tunnel; 0: it has said nothing

cdef struct Worker:
    int kind  # K_BELL
    Shared *shared
    int epoll
    int bell  # eventfd that wakes the thread
    pthread_mutex_t lock  # of the commands
    Command *first
    Command *last
    bint stopping
    int load  # connections
    double now  # when this turn began
    double report_due  # when to wake the loop for delayed reports; 0: none wait
    double shrink_at  # when to look for large outputs again
    int64_t busy_since  # when this turn began, monotonic milliseconds; 0: it waits for events
    Connection *connections  # the first of its list
    Channel *large_outputs  # the first of the list of channels with has_large_output
    Tunnel *dirty  # the first of the list of tunnels that have something to be sent
    Tunnel *settling  # the rest of that list, while it is gone through
    Tunnel *pooled[TUNNEL_BUCKETS]  # by plan and far end: those that take new streams
    StreamLimit stream_limits[TUNNEL_BUCKETS]  # by far end; a new one takes the place of another
    char *tunnel_plaintext  # PLAINTEXT_SIZE bytes of a tunnel; NULL until there is one
    Headers *headers  # that are being decoded; NULL until there is a tunnel
    Connection **heap  # of deadlines
    Py_ssize_t heap_size  # connections in it
    Py_ssize_t heap_room  # connections for which memory is there
    char received[LARGE_RECEIVE_SIZE]
    char plaintext[PLAINTEXT_SIZE]
