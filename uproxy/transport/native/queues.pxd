"""The way to the loop (reports, in batches) and to a worker (commands, in order)."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc
from posix.unistd cimport read, write

from uproxy.transport.native.types cimport CROWD, E_CLOSED, Command, Conn, Inbox, Listener, Worker
from uproxy.transport.native.system cimport (
    BUSY, QUIET, pthread_mutex_lock, pthread_mutex_unlock, word_add, word_get, word_swap,
)


cdef inline void ring(int bell) noexcept nogil:
    cdef uint64_t one = 1
    while write(bell, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef inline void silence(int bell) noexcept nogil:
    cdef uint64_t count
    while read(bell, &count, sizeof(count)) < 0 and errno == EINTR:
        pass


cdef inline void ring_loop(Inbox *inbox) noexcept nogil:
    """Once until the loop has looked."""
    cdef bint first
    pthread_mutex_lock(&inbox.lock)
    first = not inbox.rung
    inbox.rung = True
    pthread_mutex_unlock(&inbox.lock)
    if first:
        ring(inbox.bell)


cdef inline void ring_round(Inbox *inbox) noexcept nogil:
    """Unless everything has been told by now."""
    cdef bint waiting
    pthread_mutex_lock(&inbox.lock)
    waiting = inbox.waiting > 0
    pthread_mutex_unlock(&inbox.lock)
    if waiting:
        ring_loop(inbox)


cdef inline void inbox_add(Inbox *inbox, Conn *conn) noexcept nogil:
    """Under the lock; its events are still to be set."""
    conn.event_before, conn.event_after = inbox.last, NULL
    if inbox.last != NULL:
        inbox.last.event_after = conn
    else:
        inbox.first = conn
    inbox.last = conn
    inbox.waiting += 1


cdef inline int inbox_remove(Inbox *inbox, Conn *conn) noexcept nogil:
    """Under the lock; its events, which are none from then on."""
    cdef int events = conn.events
    if conn.event_before != NULL:
        conn.event_before.event_after = conn.event_after
    else:
        inbox.first = conn.event_after
    if conn.event_after != NULL:
        conn.event_after.event_before = conn.event_before
    else:
        inbox.last = conn.event_before
    inbox.waiting -= 1
    conn.events = 0
    return events


cdef inline void tell(Conn *conn, int event, bint asks) noexcept nogil:
    """Report to the loop, which takes reports in batches: at once if it asks something."""
    cdef Worker *worker = conn.worker
    cdef bint crowded
    cdef double due
    cdef Inbox *inbox = &worker.shared.inbox
    pthread_mutex_lock(&inbox.lock)
    if conn.events and event == E_CLOSED:
        event |= inbox_remove(inbox, conn)  # ends are told in their order
    if conn.events == 0:
        inbox_add(inbox, conn)
    conn.events |= event
    crowded = inbox.waiting >= CROWD
    due = inbox.busy + BUSY
    pthread_mutex_unlock(&inbox.lock)
    if asks or crowded:
        ring_loop(inbox)
    elif worker.ring_due == 0:
        worker.ring_due = max(worker.now + QUIET, due)


cdef inline void decide(Conn *conn) noexcept nogil:
    """It has been admitted or refused; who closes the door waits for the last one."""
    cdef Listener *listener = conn.listener
    if word_swap(&conn.decided, 1):
        return
    if word_add(&listener.undecided, -1) == 0 and word_get(<int *>&listener.closed):
        ring_loop(&conn.worker.shared.inbox)


cdef inline Command *command(int kind, Conn *conn) noexcept nogil:
    """NULL without memory."""
    cdef Command *made = <Command *>calloc(1, sizeof(Command))
    if made != NULL:
        made.kind, made.conn, made.fd = kind, conn, -1
    return made


cdef inline void post(Worker *worker, Command *posted) noexcept nogil:
    """It is the worker's now, and done after those before it."""
    cdef bint first
    posted.next = NULL
    pthread_mutex_lock(&worker.lock)
    first = worker.first == NULL
    if first:
        worker.first = posted
    else:
        worker.last.next = posted
    worker.last = posted
    pthread_mutex_unlock(&worker.lock)
    if first:
        ring(worker.bell)
