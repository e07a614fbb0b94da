"""The route cache of a listener's `DoorState`: routes for callers that were admitted before.

A DoorState is made and freed with the GIL, and replaced, with its cached routes, when the door
changes or its answers do.  A connection keeps the one it arrived under; a cached route lives as
long as its DoorState.
"""

from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from uproxy.transport.native.system cimport (
    pointer_get, pthread_mutex_destroy, pthread_mutex_lock, pthread_mutex_unlock, word_add,
)
from uproxy.transport.native.codes cimport MAX_CACHED_ROUTES, ROUTE_BUCKETS
from uproxy.transport.native.types cimport (
    CachedRoute, Connection, DoorState, Endpoint, Listener,
)


cdef inline bint matches(CachedRoute *cached_route, uint64_t serial,
                         Connection *connection) noexcept nogil:
    """Whether a route is for a caller that showed the leaf `serial`."""
    if cached_route.serial != serial:
        return False
    if cached_route.by_source and memcmp(cached_route.host, connection.source.host, 16) != 0:
        return False
    if cached_route.by_meant and not are_equal(&cached_route.meant, &connection.meant):
        return False
    return not cached_route.by_local or are_equal(&cached_route.local, &connection.local)


cdef inline uint64_t bucket_of_route(uint64_t serial, Endpoint *meant) noexcept nogil:
    """Return the bucket of routes for a leaf and, unless it is NULL, what they are meant for."""
    cdef uint64_t hash = serial
    cdef int at
    if meant != NULL and meant.known:
        hash = hash * 31 + meant.port
        for at in range(16):
            hash = hash * 31 + meant.host[at]
    return hash % ROUTE_BUCKETS


cdef inline CachedRoute *search(DoorState *door_state, uint64_t bucket, uint64_t serial,
                                Connection *connection) noexcept nogil:
    cdef CachedRoute *cached_route = door_state.buckets[bucket]
    while cached_route != NULL and not matches(cached_route, serial, connection):
        cached_route = cached_route.chain
    return cached_route


cdef inline bint are_equal(Endpoint *one, Endpoint *other) noexcept nogil:
    """Whether two addresses are the same; `known` is False where there is none."""
    if not one.known or not other.known:
        return one.known == other.known
    return one.port == other.port and memcmp(one.host, other.host, 16) == 0


cdef inline CachedRoute *find_cached_route(Connection *connection, uint64_t serial) noexcept nogil:
    """Return the cached route for a caller that showed the leaf `serial`; NULL: ask the loop."""
    cdef DoorState *door_state = connection.door_state
    cdef CachedRoute *cached_route
    pthread_mutex_lock(&door_state.lock)
    cached_route = search(
        door_state, bucket_of_route(serial, &connection.meant), serial, connection)
    if cached_route == NULL:  # one that doesn't depend on what it is meant for
        cached_route = search(door_state, bucket_of_route(serial, NULL), serial, connection)
    pthread_mutex_unlock(&door_state.lock)
    return cached_route


cdef inline bint add_cached_route(DoorState *door_state, CachedRoute *cached_route) noexcept nogil:
    """Add a route.  False if there are too many: the route is still the caller's."""
    cdef uint64_t bucket = bucket_of_route(
        cached_route.serial, &cached_route.meant if cached_route.by_meant else NULL)
    cdef CachedRoute **at = &door_state.buckets[bucket]
    pthread_mutex_lock(&door_state.lock)
    if door_state.count >= MAX_CACHED_ROUTES:
        pthread_mutex_unlock(&door_state.lock)
        return False
    cached_route.chain = at[0]
    at[0] = cached_route
    door_state.count += 1
    pthread_mutex_unlock(&door_state.lock)
    return True


cdef inline bint is_route_valid(Connection *connection) noexcept nogil:
    """Whether the listener still has the DoorState under which the connection arrived."""
    return pointer_get(<void **>&connection.listener.door_state) == <void *>connection.door_state


cdef inline bint is_carrying(Listener *listener) noexcept nogil:
    """Whether the listener's callers may carry streams for longer than those that they have."""
    cdef bint carries
    pthread_mutex_lock(&listener.lock)
    carries = (not listener.closed and listener.door_state != NULL
               and listener.door_state.tunnels.most > 0)
    pthread_mutex_unlock(&listener.lock)
    return carries


cdef inline DoorState *hold_for_stream(Listener *listener) noexcept nogil:
    """Return the DoorState under which a stream arrives, with references to it and the listener
    for the stream's connection, which is undecided; NULL: nobody decides about streams."""
    cdef DoorState *door_state
    pthread_mutex_lock(&listener.lock)
    door_state = listener.door_state
    if door_state != NULL and not door_state.tunnels.most:
        door_state = NULL
    if door_state != NULL:
        word_add(&door_state.held, 1)
        word_add(&listener.held, 1)
        word_add(&listener.undecided, 1)
    pthread_mutex_unlock(&listener.lock)
    return door_state


cdef inline bint hold_door_state(Connection *connection) noexcept nogil:
    """Hold the DoorState that the listener has now for a connection that has released its own.
    False: the listener has none."""
    cdef Listener *listener = connection.listener
    pthread_mutex_lock(&listener.lock)
    connection.door_state = listener.door_state
    if connection.door_state != NULL:
        word_add(&connection.door_state.held, 1)
    pthread_mutex_unlock(&listener.lock)
    return connection.door_state != NULL


cdef inline void free_cached_route(CachedRoute *cached_route):
    """Free a route, with the GIL."""
    Py_DECREF(<object>cached_route.route)
    Py_XDECREF(cached_route.upstream.context)
    free(cached_route.way.fields)
    free(cached_route)


cdef inline void release_door_state(DoorState *door_state):
    """Give a reference back, with the GIL."""
    cdef CachedRoute *cached_route
    cdef int bucket
    if word_add(&door_state.held, -1):
        return
    for bucket in range(ROUTE_BUCKETS):
        while door_state.buckets[bucket] != NULL:
            cached_route = door_state.buckets[bucket]
            door_state.buckets[bucket] = cached_route.chain
            free_cached_route(cached_route)
    Py_DECREF(<object>door_state.python)
    Py_XDECREF(door_state.downstream.context)
    pthread_mutex_destroy(&door_state.lock)
    free(door_state.tls_ports)
    free(door_state)


cdef inline void release_listener(Listener *listener) noexcept nogil:
    """Give a reference back; closing has released the DoorState before the last one."""
    if word_add(&listener.held, -1) == 0:
        pthread_mutex_destroy(&listener.lock)
        free(listener)
