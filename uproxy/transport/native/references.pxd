"""Structures that are filled from Python's values, and told in them; the Python objects that
channels and TLS setups hold references to.  All with the GIL."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_InternFromString
from libc.stdint cimport uint16_t, uintptr_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from uproxy.transport.native.system cimport sockaddr_storage
from uproxy.transport.native.codes cimport MAX_AUTHORITY, V_NONE
from uproxy.transport.native.types cimport (
    Channel, Connection, DoorState, Endpoint, TlsSetup, TunnelLimits, VerifyCache, Way,
)
from uproxy.transport.native.route_cache cimport release_door_state
from uproxy.transport.native.verify_cache cimport release_verified


cdef inline void fill_setup(TlsSetup *setup, fields):
    """Fill a setup from a `_engine.TlsSetup`, and hold its context; None leaves it empty."""
    if fields is None:
        return
    context, pointer, identity, trust, client, server_name = fields
    Py_INCREF(context)
    setup.context = <PyObject *>context
    setup.ssl_ctx = <void *><uintptr_t>pointer
    setup.identity = <void *><uintptr_t>identity
    setup.trust, setup.client = trust, client
    setup.server_name = <const char *><uintptr_t>server_name


cdef inline int fill_target(sockaddr_storage *target, unsigned int *size,
                            bytes address) except -1:
    """Copy a packed sockaddr.  ValueError if it is too long."""
    if len(address) > <Py_ssize_t>sizeof(sockaddr_storage):
        raise ValueError("the address is too long")
    memcpy(target, <char *>address, len(address))
    size[0] = len(address)
    return 0


cdef inline int fill_limits(TunnelLimits *limits, fields) except -1:
    """Fill the limits of tunnels from a `_engine.TunnelLimits`; None leaves them empty."""
    if fields is not None:
        limits.most, limits.stream_window, limits.connection_window = fields[:3]
        limits.idle, limits.expires, limits.keepalive = fields[3:]
    return 0


cdef inline int fill_captured(DoorState *door_state, fields) except -1:
    """Fill what is known of captured connections from a `_engine.Captured`; None: there are
    none."""
    cdef bytes ports
    if fields is None:
        return 0
    door_state.captured = True
    door_state.by_port, ports, door_state.migrating_count, door_state.unmarked = fields
    door_state.tls_ports = <uint16_t *>malloc(len(ports) or 1)
    if door_state.tls_ports == NULL:
        raise MemoryError
    memcpy(door_state.tls_ports, <char *>ports, len(ports))
    door_state.tls_port_count = len(ports) // sizeof(uint16_t)
    return 0


cdef inline int fill_way(Way *way, fields) except -1:
    """Fill a way from a `_engine.Way`.  ValueError if the authority is too long; MemoryError."""
    cdef bytes authority, headers
    plan, authority, limits, headers, end_delay = fields
    if len(authority) > MAX_AUTHORITY:
        raise ValueError("the authority is too long")
    way.plan, way.authority_size, way.end_delay = plan, len(authority), end_delay
    memcpy(way.authority, <char *>authority, len(authority))
    if headers:
        way.fields = <char *>malloc(len(headers))
        if way.fields == NULL:
            raise MemoryError
        way.fields_size = len(headers)
        memcpy(way.fields, <char *>headers, len(headers))
    return fill_limits(&way.limits, limits)


cdef inline endpoint_of(Endpoint *place):
    """Return 16 bytes of host, and the port; None if it isn't known."""
    if not place.known:
        return None
    return (<char *>place.host)[:16], (place.port >> 8) | ((place.port & 0xFF) << 8)


cdef inline text_of(const char *text):
    """Return the string, one and the same for all connections that have it; "" for NULL."""
    return "" if text == NULL else PyUnicode_InternFromString(text)


cdef inline void forget_refusal(Channel *channel):
    """Release the exception that refused the peer."""
    if channel.refused_with != NULL:
        Py_DECREF(<object>channel.refused_with)
        channel.refused_with = NULL


cdef inline void forget_handshake(Channel *channel, VerifyCache *verify_cache):
    """Release all that a side's handshake held; its worker is done with it."""
    forget_refusal(channel)
    if channel.verified_peer != NULL:
        release_verified(verify_cache, channel.verified_peer)
        channel.verified_peer = NULL
    forget_context(channel)
    channel.verdict = V_NONE
    channel.x509_error = 1


cdef inline void forget_context(Channel *channel):
    """Release the TLS context, if this connection has references of its own, and forget the
    setup."""
    while channel.owned_contexts:
        Py_DECREF(<object>channel.tls_setup.context)
        channel.owned_contexts -= 1
    channel.tls_setup.context = NULL
    channel.tls_setup.ssl_ctx = channel.tls_setup.identity = NULL
    channel.tls_setup.server_name = NULL


cdef inline void leave_door_state(Connection *connection):
    """Release a connection's DoorState, and the TLS contexts of its handshakes, with the GIL."""
    cdef DoorState *door_state = connection.door_state
    connection.cached_route, connection.door_state = NULL, NULL
    forget_context(&connection.sides[0].channel)
    forget_context(&connection.sides[1].channel)
    if door_state != NULL:
        release_door_state(door_state)
