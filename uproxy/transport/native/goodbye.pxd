"""The end of a tunnel: drained, idle, closed by the peer, broken or lost.

One that is *retired* gets no new streams, and ends with its last one.  One that is *over* stays
until its streams have passed on what they hold.
"""

from libc.errno cimport ECONNRESET, ENOTCONN, EPIPE
from libc.stdint cimport uint32_t

from uproxy.transport.native.system cimport (
    CLOSE_TUNNEL_S, DRAIN_TUNNEL_S, EPOLLOUT, LINGER_S, READ_EVENTS,
)
from uproxy.transport.native.frames cimport H2_NO_ERROR
from uproxy.transport.native.verbs cimport output_of
from uproxy.transport.native.rules cimport close_session, lose_session
from uproxy.transport.native.control cimport go_away
from uproxy.transport.native.codes cimport (
    F_HTTP2, F_NONE, F_OS, F_TIMEOUT, F_TRUNCATED, RECEIVE_SIZE,
)
from uproxy.transport.native.types cimport Channel, Tunnel
from uproxy.transport.native.channel cimport fail, receive_raw, watch
from uproxy.transport.native.tls cimport close_channel, finish_channel, flush
from uproxy.transport.native.tunnel cimport (
    TUNNEL_ENDED, TUNNEL_FAILED, TUNNEL_GOES_ON, has_streams, mark_dirty, send_tunnel,
)


cdef inline void lose_tunnel(Tunnel *tunnel) noexcept nogil:
    """Close the socket: nothing is sent or received any more.  What streams hold stays readable.  A
    peer that broke HTTP/2 gets time to read the GOAWAY that says so, and one whose tunnel we end in
    order the time to take the last bytes."""
    cdef int why = tunnel.connection.fault.what
    tunnel.is_over = tunnel.is_retired = True
    if tunnel.is_ready:
        lose_session(&tunnel.session)
    if why != F_HTTP2 and (why != F_NONE or tunnel.closed_by == 0) or not begin_linger(tunnel):
        close_channel(&tunnel.side.channel, why == F_NONE)


cdef inline bint begin_linger(Tunnel *tunnel) noexcept nogil:
    """Send our end, and read for LINGER_S more, or until `closed_by`, what nobody wants: if we
    closed at once, the kernel would answer it with a reset, which drops what the peer hasn't got
    and overtakes the GOAWAY.  False: it can't be sent."""
    cdef Channel *channel = &tunnel.side.channel
    if channel.gone or channel.midway or (not channel.ending and finish_channel(channel) < 0):
        return False
    tunnel.lingers_until = tunnel.closed_by
    if tunnel.closed_by == 0:
        tunnel.lingers_until = tunnel.connection.worker.now + LINGER_S
    return watch(channel, READ_EVENTS | (EPOLLOUT if channel.unsent else 0)) == 0


cdef inline void linger_on(Tunnel *tunnel, uint32_t events) noexcept nogil:
    """Epoll has reported `events` of a tunnel that lingers: send the rest, read and forget."""
    cdef Channel *channel = &tunnel.side.channel
    cdef ssize_t size = -2
    if tunnel.lingers_until == 0:
        return
    if channel.unsent and events & EPOLLOUT and flush(channel) < 0:
        size = -1
    elif events & ~EPOLLOUT:
        size = receive_raw(channel, RECEIVE_SIZE)
    if size == 0 or size == -1 or watch(
            channel, READ_EVENTS | (EPOLLOUT if channel.unsent else 0)) < 0:
        tunnel.lingers_until = 0


cdef inline void forgive_silence(Tunnel *tunnel) noexcept nogil:
    """Count it as an end in order that a peer has closed without close_notify, or with a reset,
    when nothing could be lost: ztunnel and curl leave so."""
    cdef int why = tunnel.connection.fault.what, error = tunnel.connection.fault.error
    if has_streams(tunnel) and tunnel.closed_by == 0:
        return
    if why == F_TRUNCATED or (why == F_OS and (
            error == ECONNRESET or error == EPIPE or error == ENOTCONN)):
        tunnel.connection.fault.what = F_NONE


# The end, in order.


cdef inline void begin_drain(Tunnel *tunnel) noexcept nogil:
    """Take no new streams, and end with the last one: a GOAWAY says so, and another one, a while
    later, which was the last that is served (RFC 9113 §6.8).  Those that come until then are."""
    # not whether it is retired: a peer that has said GOAWAY could go on opening streams
    if tunnel.session.is_going or tunnel.session.broken_by:
        return
    tunnel.is_retired = True
    tunnel.final_at = tunnel.connection.worker.now + DRAIN_TUNNEL_S
    go_away(&tunnel.session, False)
    mark_dirty(tunnel)


cdef inline void close_if_done(Tunnel *tunnel) noexcept nogil:
    """Send the last GOAWAY of a retired tunnel that has no streams any more."""
    if (not tunnel.is_retired or tunnel.final_at != 0 or tunnel.closed_by != 0
            or has_streams(tunnel) or tunnel.is_over):
        return
    tunnel.closed_by = tunnel.connection.worker.now + CLOSE_TUNNEL_S
    close_session(&tunnel.session, H2_NO_ERROR)


cdef inline bint say_goodbye(Tunnel *tunnel) noexcept nogil:
    """Send a GOAWAY and our end behind what the streams have left, if the socket takes all of it
    now.  Returns whether it did."""
    cdef char *data = NULL
    if not tunnel.is_ready or tunnel.is_over:
        return False
    close_session(&tunnel.session, H2_NO_ERROR)
    if (send_tunnel(tunnel) == TUNNEL_FAILED or tunnel.side.channel.unsent
            or output_of(&tunnel.session, &data)):
        return False
    return finish_channel(&tunnel.side.channel) == 0


cdef inline int finish_if_sent(Tunnel *tunnel) noexcept nogil:
    """Send the end of a tunnel that is closing, if all else is sent, and let it end when the peer's
    has come, or in time: if we closed at once, what the peer still says would be answered with a
    reset, which drops what the kernel hasn't delivered.  Returns a TunnelTurn."""
    cdef Channel *channel = &tunnel.side.channel
    cdef char *data = NULL
    cdef bint is_sent = not channel.unsent and not output_of(&tunnel.session, &data)
    if tunnel.closed_by == 0:
        return TUNNEL_GOES_ON
    if is_sent and not channel.ending and finish_channel(channel) < 0:
        return TUNNEL_FAILED
    if tunnel.connection.worker.now < tunnel.closed_by:
        return TUNNEL_GOES_ON
    if is_sent:
        return TUNNEL_ENDED
    fail(channel, F_TIMEOUT, 0, 0)
    return TUNNEL_FAILED
