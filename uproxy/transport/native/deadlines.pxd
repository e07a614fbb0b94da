"""The deadlines of a worker's connections: a binary heap, in which each connection has its
position. Times are monotonic seconds; 0 is never."""

from libc.stdlib cimport realloc

from uproxy.transport.native.types cimport Connection, Worker


cdef inline void heap_put(Worker *worker, Py_ssize_t at, Connection *connection) noexcept nogil:
    """Write a connection to position `at`, and the position to the connection."""
    worker.heap[at] = connection
    connection.heap = at


cdef inline void heap_place(Worker *worker, Py_ssize_t at, Connection *connection) noexcept nogil:
    """Put a connection at position `at`, then move it up or down to where its deadline belongs."""
    cdef Py_ssize_t other
    while at > 0 and connection.due < worker.heap[(at - 1) // 2].due:
        heap_put(worker, at, worker.heap[(at - 1) // 2])
        at = (at - 1) // 2
    while True:
        other = 2 * at + 1
        if other >= worker.heap_size:
            break
        if other + 1 < worker.heap_size and worker.heap[other + 1].due < worker.heap[other].due:
            other += 1
        if connection.due <= worker.heap[other].due:
            break
        heap_put(worker, at, worker.heap[other])
        at = other
    heap_put(worker, at, connection)


cdef inline void clear_deadline(Connection *connection) noexcept nogil:
    """Take a connection out of the heap, if it is in."""
    cdef Worker *worker = connection.worker
    cdef Py_ssize_t at = connection.heap
    connection.due = 0
    if at < 0:
        return
    connection.heap = -1
    worker.heap_size -= 1
    if at < worker.heap_size:
        heap_place(worker, at, worker.heap[worker.heap_size])


cdef inline int set_deadline(Connection *connection, double due) noexcept nogil:
    """Set the time at which a connection is due; 0 removes it.  Returns 0, or -1 without memory."""
    cdef Worker *worker = connection.worker
    cdef Connection **bigger
    if due == 0:
        clear_deadline(connection)
        return 0
    connection.due = due
    if connection.heap >= 0:
        heap_place(worker, connection.heap, connection)
        return 0
    if worker.heap_size == worker.heap_room:
        bigger = <Connection **>realloc(worker.heap, 2 * worker.heap_room * sizeof(void *))
        if bigger == NULL:
            return -1
        worker.heap, worker.heap_room = bigger, 2 * worker.heap_room
    worker.heap_size += 1
    heap_place(worker, worker.heap_size - 1, connection)
    return 0


cdef inline double earlier_of(double one, double other) noexcept nogil:
    """Return the earlier of two times."""
    if one == 0 or (other != 0 and other < one):
        return other
    return one


cdef inline double seconds_until(Connection *connection, double due) noexcept nogil:
    """Return the seconds until a time, at least a microsecond; 0 for 0, which is never."""
    return max(due - connection.worker.now, 1e-6) if due else 0
