"""The numbers that the pages share: sizes, limits, states, events, commands, failures, verdicts.

`_engine.pyx` has the names by which Python knows them, and checks at import that none is missing.
"""


cdef enum:  # bytes
    RECEIVE_SIZE = 64 * 1024  # that one recv asks for
    LARGE_RECEIVE_SIZE = 256 * 1024  # of one recv, while the last one filled RECEIVE_SIZE
    SMALL_RECEIVE_SIZE = 8 * 1024  # of one recv from a peer that sends KeyUpdates, not data
    RECORD_SIZE = 16 * 1024 + 512  # of a TLS record, header and tag included
    PLAINTEXT_SIZE = LARGE_RECEIVE_SIZE + 2 * RECORD_SIZE  # of a thread's buffer
    MAX_HELLO = 28 * 1024  # received without a complete ClientHello: it goes to OpenSSL as it is
    MAX_OWN_UNSENT = 2 * LARGE_RECEIVE_SIZE  # to a peer, which isn't read while more is unsent
    MAX_IDLE_OUTPUT = 4 * 1024  # above it the output buffer of an idle TLS session is replaced
    MAX_AUTHORITY = 56  # of a CONNECT that we send: [IPv6]:port

cdef enum:  # counts
    MAX_EVENTS = 128  # that one epoll_wait returns at most
    MAX_HANDSHAKE_STEPS = 2  # in one turn of a worker
    MAX_ACCEPTS = 16  # in one turn of a worker, so that a flood leaves turns for the others
    MAX_OPTIONS = 8  # socket options of dialled sockets
    MAX_SHOWN = 80  # bytes of a wrong value that are shown
    MAX_STRANDINGS = 8  # lost tunnels that cost a connection nothing, because no byte had passed
    MAX_HELPERS = 32  # threads for handshakes with uncached peers
    LARGE_BATCH = 8  # reports: after a batch of this size the next one waits 100 ms
    MAX_DELAYED_REPORTS = 256  # with so many waiting the loop is woken at once
    MAX_UNREPORTED = 4096  # ended connections that the loop hasn't released: accepting pauses
    VERIFIED_BUCKETS = 1024  # of the hash table of the verify cache
    MAX_VERIFIED_PEERS = 1024  # entries of the verify cache
    HASHED = 64  # last bytes of a leaf that the verify cache hashes
    HASH_KEYS = 9  # one for each 8 of those bytes, and one to begin with
    ROUTE_BUCKETS = 256  # of the hash table of each route cache
    MAX_CACHED_ROUTES = 1024  # routes of each
    SOURCE_BUCKETS = 512  # of the hash table of sources
    TUNNEL_BUCKETS = 64  # of a thread's hash table of tunnels
    MAX_STALLED_SEEN = 8  # handshakes that are looked at, to find one that makes room
    MAX_TIMES_HEARD = 32  # in a handshake; whose peer sends more pieces is the next to make room

cdef enum:  # descriptions of alerts (RFC 8446 §6)
    ALERT_UNEXPECTED_MESSAGE = 10
    ALERT_RECORD_OVERFLOW = 22
    ALERT_HANDSHAKE_FAILURE = 40
    ALERT_ILLEGAL_PARAMETER = 47

cdef enum Kind:  # what an epoll event is about; the first word of each structure
    K_CHANNEL, K_LISTENER, K_BELL

# The state of a connection is one of lifecycle.State (`_engine.STATES` has the pairs).  Within it
# the connection waits for one thing:
#
#   waits for   in the states                        until
#   W_EVENT     any                                  its socket is ready, or its deadline has passed
#   W_HELLO     HANDSHAKING_DOWNSTREAM               the ClientHello is complete, or has begun
#   W_LOOP      those before RELAYING                the event loop answers (no deadline)
#   W_LINGER    HANDSHAKING_DOWNSTREAM               a refused caller has read its alert
#
# On a worker only `connection.pxd` sets either of the two; the loop sets the state while it is
# asked.

cdef enum StateNumber:
    S_ACCEPTED, S_HANDSHAKING_DOWNSTREAM, S_CARRYING, S_ADMITTING, S_CONNECTING
    S_HANDSHAKING_UPSTREAM, S_OPENING_STREAM, S_RELAYING, S_CLOSING, S_CLOSED
    STATE_COUNT  # not a state: how many there are

cdef enum Wait:
    W_EVENT, W_HELLO, W_LOOP, W_LINGER

cdef enum Event:  # of a report to the loop; bits, of which several may be set
    E_ARRIVED = 1  # asks for the answer of `Door.tls`: at once, or at the first byte
    E_HANDSHAKEN = 2  # asks for a route
    E_ADMITTED = 4  # says: a cached route is used
    E_UPSTREAM_READY = 8  # asks whether bytes may pass
    E_UPSTREAM_FAILED = 16  # asks for the next candidate
    E_OPENED = 32  # says: bytes pass on a cached route
    E_CLOSED = 64  # says: the connection has ended
    E_CARRYING = 128  # says: it carries streams

cdef enum CommandKind:
    C_ADOPT  # a worker gets a connection that another thread has accepted
    C_HANDSHAKE  # the answer to E_ARRIVED
    C_WATCH_LOSS  # look for a reset of the downstream side
    C_DIAL  # the answer to E_HANDSHAKEN and E_UPSTREAM_FAILED
    C_RELAY  # the answer to E_UPSTREAM_READY
    C_CUT, C_CUT_ALL  # reset one, or all connections of the worker
    C_EVICT  # reset one that makes room for another
    C_EVICT_STALLED  # the same, while its handshake isn't done
    C_DRAIN  # let the tunnels of a listener's callers end
    C_RETIRE  # give no new streams to the tunnels that were dialled with a plan
    C_RELEASE, C_RELEASE_LISTENER  # free the memory
    C_STOP  # end the thread
    C_STEP, C_STEP_DONE  # a step of a handshake, to a helper and back

# Why a connection or a candidate has failed.  `_engine.FAILURES` has the names by which the loop
# knows them, failures.py the words.
#
#   F_OS               a system call has failed, with an errno
#   F_TLS              OpenSSL has failed, with its error; F_AFTER_HANDSHAKE: the server's alert
#                      that refuses our certificate when the handshake has ended for us
#   F_VERIFY           the verifier has refused the peer, or has a defect
#   F_UNPROVEN         a handshake has ended in which no peer was verified
#   F_UNASKED          the server didn't ask for our certificate
#   F_EXCESS           the peer has presented too much (an Excess)
#   F_NO_HELLO         the caller has ended before it sent a byte; F_SHORT_HELLO: within its
#                      ClientHello; F_SHORT_HANDSHAKE: later in the handshake
#   F_TRUNCATED        a FIN has come without close_notify
#   F_TIMEOUT          a connect or a handshake took too long; F_IDLE, F_HALF_CLOSED: the relay's
#                      two limits
#   F_FULL, F_SOURCE_FULL, F_SLOTS   limits: connections, those of one source, handshakes in flight
#   F_EVICTED          had to make room as a connection; F_STALLED: as a handshake in flight
#   F_STATUS           the answer to our CONNECT wasn't 200, but this number
#   F_STREAM_REFUSED   the peer hasn't looked at our CONNECT: it may be sent again, elsewhere
#   F_STREAM_RESET     the peer has reset a stream before it was open, with this HTTP/2 error
#   F_HTTP2            the peer of a tunnel has broken HTTP/2 (a SessionFault)
#   F_HELD             a stream's reader took nothing while its tunnel held too much
#   F_CUT              the loop has ended it; F_MEMORY: there was no memory
cdef enum Failure:
    F_NONE, F_CUT, F_OS, F_TLS, F_VERIFY, F_TIMEOUT, F_IDLE, F_HALF_CLOSED, F_SLOTS
    F_NO_HELLO, F_SHORT_HELLO, F_SHORT_HANDSHAKE, F_TRUNCATED, F_UNPROVEN, F_MEMORY
    F_AFTER_HANDSHAKE, F_UNASKED, F_FULL, F_SOURCE_FULL, F_EVICTED, F_STALLED, F_EXCESS
    F_STATUS, F_STREAM_REFUSED, F_STREAM_RESET, F_HTTP2, F_HELD
    FAILURE_COUNT

cdef enum Verdict:  # on a peer's certificates
    V_NONE  # none have come
    V_ACCEPTED
    V_REFUSED  # the peer is at fault
    V_DEFECT  # the verifier has failed, or certificates came twice
