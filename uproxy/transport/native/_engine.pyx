# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""Threads that accept, shake hands, dial and move bytes without the GIL, each with its own epoll.

They decide nothing.  `ListenerHandle.set_door_state` says what arrivals meet,
`ConnectionHandle.cache_route` where known callers go; whatever else is to be decided is asked.
`Core.take` returns in batches what was asked and what has happened, when `Core.fileno` is
readable.  All methods are called on one thread, the event loop's.  A worker touches no Python
object, but in `ask_verifier`, once for each leaf that isn't in the verify cache.

The pages, each of which needs only those before it, are listed in
tests/test_transport_native_pages.py; `types` has every structure, `connection` a connection's life.
Three classes translate for Python.  Each has a page of its own, and is included below: as one
extension module has one table of OpenSSL's functions and one variable per thread, they can't be
modules.
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


include "core.pxi"
include "listener_handle.pxi"
include "connection_handle.pxi"
