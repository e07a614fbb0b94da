"""The two queues between threads: reports to the event loop, in batches, and commands to a worker,
in order.  An eventfd (a bell) wakes who reads one."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport read, write

from uproxy.transport.native.system cimport (
    LARGE_BATCH_DELAY_S, REPORT_DELAY_S, pthread_mutex_lock, pthread_mutex_unlock, word_add,
    word_get, word_swap,
)
from uproxy.transport.native.codes cimport E_CLOSED, MAX_DELAYED_REPORTS
from uproxy.transport.native.types cimport Command, Connection, Listener, ReportQueue, Way, Worker


cdef inline void ring(int bell) noexcept nogil:
    """Make an eventfd readable."""
    cdef uint64_t one = 1
    while write(bell, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef inline void clear_bell(int bell) noexcept nogil:
    """Make an eventfd unreadable until it is rung."""
    cdef uint64_t count
    while read(bell, &count, sizeof(count)) < 0 and errno == EINTR:
        pass


cdef inline void ring_loop(ReportQueue *reports) noexcept nogil:
    """Wake the loop, unless that was done since it took reports last."""
    cdef bint first
    pthread_mutex_lock(&reports.lock)
    first = not reports.rung
    reports.rung = True
    pthread_mutex_unlock(&reports.lock)
    if first:
        ring(reports.bell)


cdef inline void ring_loop_if_reports_wait(ReportQueue *reports) noexcept nogil:
    """Wake the loop, unless it has taken all reports by now."""
    cdef bint waiting
    pthread_mutex_lock(&reports.lock)
    waiting = reports.waiting > 0
    pthread_mutex_unlock(&reports.lock)
    if waiting:
        ring_loop(reports)


cdef inline void add_report(ReportQueue *reports, Connection *connection) noexcept nogil:
    """Append a connection, under the lock; the caller sets its events."""
    connection.event_before, connection.event_after = reports.last, NULL
    if reports.last != NULL:
        reports.last.event_after = connection
    else:
        reports.first = connection
    reports.last = connection
    reports.waiting += 1


cdef inline int remove_report(ReportQueue *reports, Connection *connection) noexcept nogil:
    """Take a connection out, under the lock.  Returns its events, and clears them."""
    cdef int events = connection.events
    if connection.event_before != NULL:
        connection.event_before.event_after = connection.event_after
    else:
        reports.first = connection.event_after
    if connection.event_after != NULL:
        connection.event_after.event_before = connection.event_before
    else:
        reports.last = connection.event_before
    reports.waiting -= 1
    connection.events = 0
    return events


cdef inline void report(Connection *connection, int event, bint asks) noexcept nogil:
    """Report an Event to the loop.  Wake it at once if the event `asks` something or
    MAX_DELAYED_REPORTS wait, otherwise REPORT_DELAY_S from now and LARGE_BATCH_DELAY_S after the
    last large batch."""
    cdef Worker *worker = connection.worker
    cdef bint crowded
    cdef double due
    cdef ReportQueue *reports = &worker.shared.reports
    pthread_mutex_lock(&reports.lock)
    # ends are reported in their order; a stream keeps its place before its tunnel, which it needs
    if connection.events and event == E_CLOSED and connection.carried_by == NULL:
        event |= remove_report(reports, connection)
    if connection.events == 0:
        add_report(reports, connection)
    connection.events |= event
    crowded = reports.waiting >= MAX_DELAYED_REPORTS
    due = reports.last_large_batch + LARGE_BATCH_DELAY_S
    pthread_mutex_unlock(&reports.lock)
    if asks or crowded:
        ring_loop(reports)
    elif worker.report_due == 0:
        worker.report_due = max(worker.now + REPORT_DELAY_S, due)


cdef inline void mark_decided(Connection *connection) noexcept nogil:
    """Note that the connection was admitted or refused. Wakes the loop for the last one of a
    listener that is closed: `close` waits for it."""
    cdef Listener *listener = connection.listener
    if word_swap(&connection.decided, 1):
        return
    if word_add(&listener.undecided, -1) == 0 and word_get(<int *>&listener.closed):
        ring_loop(&connection.worker.shared.reports)


cdef inline Command *new_command(int kind, Connection *connection) noexcept nogil:
    """Make a command.  NULL without memory."""
    cdef Command *made = <Command *>calloc(1, sizeof(Command))
    if made != NULL:
        made.kind, made.connection, made.fd = kind, connection, -1
    return made


cdef inline void free_way(Way *way) noexcept nogil:
    """Free a way that a command or a connection owns; NULL is none."""
    if way != NULL:
        free(way.fields)
        free(way)


cdef inline void send_command(Worker *worker, Command *command) noexcept nogil:
    """Append a command, which the worker runs and frees."""
    cdef bint first
    command.next = NULL
    pthread_mutex_lock(&worker.lock)
    first = worker.first == NULL
    if first:
        worker.first = command
    else:
        worker.last.next = command
    worker.last = command
    pthread_mutex_unlock(&worker.lock)
    if first:
        ring(worker.bell)
