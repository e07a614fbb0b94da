"""A worker's deadlines: a binary heap in which a connection knows its place."""

from libc.stdlib cimport realloc

from uproxy.transport.native.types cimport Conn, Worker


cdef inline void heap_put(Worker *worker, Py_ssize_t at, Conn *conn) noexcept nogil:
    worker.heap[at] = conn
    conn.heap = at


cdef inline void heap_settle(Worker *worker, Py_ssize_t at, Conn *conn) noexcept nogil:
    """Let `conn`, which is to go at `at`, rise or sink to where it belongs."""
    cdef Py_ssize_t other
    while at > 0 and conn.due < worker.heap[(at - 1) // 2].due:
        heap_put(worker, at, worker.heap[(at - 1) // 2])
        at = (at - 1) // 2
    while True:
        other = 2 * at + 1
        if other >= worker.heap_size:
            break
        if other + 1 < worker.heap_size and worker.heap[other + 1].due < worker.heap[other].due:
            other += 1
        if conn.due <= worker.heap[other].due:
            break
        heap_put(worker, at, worker.heap[other])
        at = other
    heap_put(worker, at, conn)


cdef inline void forget_deadline(Conn *conn) noexcept nogil:
    cdef Worker *worker = conn.worker
    cdef Py_ssize_t at = conn.heap
    conn.due = 0
    if at < 0:
        return
    conn.heap = -1
    worker.heap_size -= 1
    if at < worker.heap_size:
        heap_settle(worker, at, worker.heap[worker.heap_size])


cdef inline int set_deadline(Conn *conn, double due) noexcept nogil:
    """0 is none.  -1 without memory."""
    cdef Worker *worker = conn.worker
    cdef Conn **bigger
    if due == 0:
        forget_deadline(conn)
        return 0
    conn.due = due
    if conn.heap >= 0:
        heap_settle(worker, conn.heap, conn)
        return 0
    if worker.heap_size == worker.heap_room:
        bigger = <Conn **>realloc(worker.heap, 2 * worker.heap_room * sizeof(void *))
        if bigger == NULL:
            return -1
        worker.heap, worker.heap_room = bigger, 2 * worker.heap_room
    worker.heap_size += 1
    heap_settle(worker, worker.heap_size - 1, conn)
    return 0


cdef inline double earlier(double one, double other) noexcept nogil:
    """Of two times, of which 0 is never."""
    if one == 0 or (other != 0 and other < one):
        return other
    return one
