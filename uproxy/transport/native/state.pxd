"""The one way to change the state of a connection, and its deadline.

`connection.pxd` alone changes them on the connection's thread, and the event loop by
`enter_state_by_loop`.  Builds with -DUPROXY_CHECK_MOVES (sanitizers) abort on a move that
lifecycle.MOVES hasn't.
"""

from uproxy.transport.native.system cimport check_move, word_get, word_swap_if
from uproxy.transport.native.codes cimport F_MEMORY, S_CLOSED, W_EVENT, W_LOOP
from uproxy.transport.native.types cimport Connection
from uproxy.transport.native.queues cimport report
from uproxy.transport.native.deadlines cimport set_deadline
from uproxy.transport.native.side cimport fail_side


cdef inline int enter_state(Connection *connection, int state, double seconds) noexcept nogil:
    """Enter a state, or stay in it, with a deadline in so many seconds (0: none).  Returns 0, or -1
    without memory (recorded).  Checked builds abort on a move that lifecycle.MOVES hasn't."""
    if state != state_of(connection):
        set_state(connection, state)
    connection.waits_for = W_EVENT
    if set_deadline(connection, connection.worker.now + seconds if seconds else 0) < 0:
        return fail_side(&connection.sides[0], F_MEMORY, 0)
    return 0


cdef inline int state_of(Connection *connection) noexcept nogil:
    """Return the state, on any thread."""
    return word_get(&connection.state)


cdef inline void set_state(Connection *connection, int state) noexcept nogil:
    """Change the state in one atomic step: the loop reads it at any time, and changes it while the
    connection waits for the loop."""
    cdef int before
    while True:
        before = state_of(connection)
        check_move(before, state)
        if state == S_CLOSED:
            connection.ended_in = before
        if word_swap_if(&connection.state, before, state):
            return


cdef inline void enter_state_by_loop(Connection *connection, int state) noexcept nogil:
    """Enter a state on the event loop, for which the connection waits (W_LOOP).  If its thread has
    closed it meanwhile, only `ended_in` becomes that state."""
    cdef int before = state_of(connection)
    while before != S_CLOSED:
        if before != state:
            check_move(before, state)
        if word_swap_if(&connection.state, before, state):
            return
        before = state_of(connection)
    connection.ended_in = state


cdef inline void ask_loop(Connection *connection, int event) noexcept nogil:
    """Ask the event loop (an Event), and wait for its answer, a command, without a deadline."""
    enter_state(connection, connection.state, 0)
    connection.waits_for = W_LOOP
    report(connection, event, True)
