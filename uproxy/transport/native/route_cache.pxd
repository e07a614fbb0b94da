"""What doors said and what of it stands: terms for arrivals, routes for known callers.

Terms are made, and let go, with the GIL, and replaced whole when doors are asked again; a
connection keeps those it arrived under.  A route that stands is looked up under the terms'
lock, and lives as long as they do.
"""

from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from uproxy.transport.native.types cimport (
    MOST_STANDING, STANDING_BUCKETS, Conn, Listener, Standing, Terms,
)
from uproxy.transport.native.system cimport (
    pointer_get, pthread_mutex_destroy, pthread_mutex_lock, pthread_mutex_unlock, word_add,
)


cdef inline bint suits(Standing *standing, uint64_t serial, Conn *conn) noexcept nogil:
    return standing.serial == serial and (
        not standing.by_source or memcmp(standing.host, conn.source.host, 16) == 0)


cdef inline Standing *find_standing(Conn *conn, uint64_t serial) noexcept nogil:
    """The route that stands for whoever showed the leaf with this number; NULL: ask."""
    cdef Terms *terms = conn.terms
    cdef Standing *standing
    pthread_mutex_lock(&terms.lock)
    standing = terms.buckets[serial % STANDING_BUCKETS]
    while standing != NULL and not suits(standing, serial, conn):
        standing = standing.chain
    pthread_mutex_unlock(&terms.lock)
    return standing


cdef inline bint add_standing(Terms *terms, Standing *standing) noexcept nogil:
    """False: there are too many already, and `standing` is still the caller's."""
    cdef Standing **at = &terms.buckets[standing.serial % STANDING_BUCKETS]
    pthread_mutex_lock(&terms.lock)
    if terms.count >= MOST_STANDING:
        pthread_mutex_unlock(&terms.lock)
        return False
    standing.chain = at[0]
    at[0] = standing
    terms.count += 1
    pthread_mutex_unlock(&terms.lock)
    return True


cdef inline bint still_stands(Conn *conn) noexcept nogil:
    """Whether doors haven't been asked again since it arrived."""
    return pointer_get(<void **>&conn.listener.terms) == <void *>conn.terms


cdef inline void free_standing(Standing *standing):
    """With the GIL."""
    Py_DECREF(<object>standing.route)
    Py_XDECREF(standing.far.context)
    free(standing)


cdef inline void terms_release(Terms *terms):
    """With the GIL."""
    cdef Standing *standing
    cdef int bucket
    if word_add(&terms.held, -1):
        return
    for bucket in range(STANDING_BUCKETS):
        while terms.buckets[bucket] != NULL:
            standing = terms.buckets[bucket]
            terms.buckets[bucket] = standing.chain
            free_standing(standing)
    Py_DECREF(<object>terms.offer)
    Py_XDECREF(terms.near.context)
    pthread_mutex_destroy(&terms.lock)
    free(terms)


cdef inline void listener_release(Listener *listener) noexcept nogil:
    """Its terms are gone by then: closing takes them."""
    if word_add(&listener.held, -1) == 0:
        pthread_mutex_destroy(&listener.lock)
        free(listener)
