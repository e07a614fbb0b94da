# A worker's turn: sockets first, then what the loop commanded, then deadlines.


cdef void die(Conn *conn, bint orderly) noexcept nogil:
    """Its end: nothing touches it any more but C_RELEASE."""
    cdef Side *near = &conn.sides[0]
    cdef Side *far = &conn.sides[1]
    # a reset would take what the kernel hasn't delivered yet: a slow reader that was told the
    # end isn't at fault for the other side's silence
    cdef bint patient = conn.failure == F_IDLE or conn.failure == F_HALF_CLOSED
    free_slot(conn)
    forget_deadline(conn)
    let_go(near, orderly or (patient and near.ending and near.backlog_size == 0))
    let_go(far, orderly or (patient and far.ending and far.backlog_size == 0))
    conn.mode = M_DEAD
    tell(conn, E_CLOSED)


cdef void ask(Conn *conn, int event) noexcept nogil:
    """The loop decides on what comes next."""
    forget_deadline(conn)
    conn.mode = M_ASKING
    tell(conn, event)


cdef void free_slot(Conn *conn) noexcept nogil:
    if conn.has_slot:
        conn.has_slot = False
        word_add(conn.worker.slots, -1)


cdef bint take_slot(Conn *conn) noexcept nogil:
    if word_add(conn.worker.slots, 1) > word_get(conn.worker.most_slots):
        word_add(conn.worker.slots, -1)
        return False
    conn.has_slot = True
    return True


# The near handshake.


cdef void hear_hello(Side *side) noexcept nogil:
    """A whole ClientHello, before anything is spent on it."""
    cdef Conn *conn = side.conn
    cdef Worker *worker = conn.worker
    cdef ssize_t size = receive_raw(side, MAX_HELLO - side.early_size)
    if size == -2:
        return
    if size < 0:
        fail(side, F_OS, errno)
        near_failed(conn)
    elif size == 0:
        fail(side, F_SHORT_HELLO if side.early_size else F_NO_HELLO)
        near_failed(conn)
    else:
        if conn.started == 0:
            conn.started = worker.now
        if side.early_size == 0 and hello_complete(side, <uint8_t *>worker.received, size):
            begin_near(side, worker.received, size)
        elif keep_early(side, worker.received, size) < 0:
            near_failed(conn)
        elif hello_complete(side, <uint8_t *>side.early, side.early_size):
            begin_near_kept(side)


cdef void begin_near_kept(Side *side) noexcept nogil:
    cdef char *hello = side.early
    cdef size_t size = side.early_size
    side.early = NULL
    side.early_size = 0
    begin_near(side, hello, size)
    free(hello)


cdef void begin_near(Side *side, char *hello, size_t size) noexcept nogil:
    cdef Conn *conn = side.conn
    word_set(&conn.spoke, 1)
    if not take_slot(conn):
        fail(side, F_SLOTS)
        near_failed(conn)
    elif begin_tls(side) < 0:
        near_failed(conn)
    else:
        conn.mode = M_SHAKING
        after_step(side, shake(side, hello, size))


cdef void near_failed(Conn *conn) noexcept nogil:
    cdef Side *side = &conn.sides[0]
    cdef int why = conn.failure
    word_set(&conn.spoke, 1)
    free_slot(conn)
    if (why == F_OS or why == F_TLS or why == F_NO_HELLO or why == F_SHORT_HELLO
            or why == F_SHORT_HANDSHAKE or why == F_UNPROVEN or why == F_UNASKED
            or (why == F_VERIFY and side.verdict == V_REFUSED)):
        part(side)
    else:
        die(conn, False)


cdef void part(Side *side) noexcept nogil:
    """Close when the other side had its time to read our last words: closed at once, bytes
    that it still sends would be answered by a reset that overtakes the alert."""
    cdef Conn *conn = side.conn
    conn.mode = M_PARTING
    word_set(&conn.spoke, 0)  # it makes room when connections are full
    tell(conn, E_PARTING)
    if set_deadline(conn, conn.worker.now + LINGER) < 0:
        die(conn, True)
        return
    part_turn(side, 0)


cdef void part_turn(Side *side, uint32_t events) noexcept nogil:
    cdef Conn *conn = side.conn
    if side.backlog_size and events and flush(side) < 0:
        die(conn, True)
    elif side.backlog_size:
        if watch(side, EPOLLOUT) < 0:
            die(conn, True)
    elif not side.ending:
        side.ending = True
        if shutdown(side.fd, SHUT_WR) != 0 or watch(side, EPOLLIN) < 0:
            die(conn, True)
    elif events and discard(side) == 0:
        die(conn, True)


cdef ssize_t discard(Side *side) noexcept nogil:
    """Take one receive's worth and forget it; 0 when no more will come."""
    cdef ssize_t size = receive_raw(side, RECEIVE)
    return 0 if size == -1 else size


# Both handshakes.


cdef void shake_turn(Side *side, uint32_t events) noexcept nogil:
    cdef ssize_t size
    cdef int result
    if side.backlog_size:
        result = flush(side)
    else:
        size = receive_raw(side, RECEIVE)
        if size == -2:
            return
        if size < 0:
            result = fail(side, F_OS, errno)
        elif size == 0:
            result = fail(side, F_SHORT_HANDSHAKE)
        else:
            result = shake(side, side.conn.worker.received, size)
    after_step(side, result)


cdef void after_step(Side *side, int result) noexcept nogil:
    cdef Conn *conn = side.conn
    if result == 0:
        result = watch(side, EPOLLOUT if side.backlog_size else EPOLLIN)
        if result == 0:
            return
    if result == 1:
        mute(side)
        free_slot(conn)
        ask(conn, E_FAR_READY if side.index else E_NEAR_SHAKEN)
    elif side.index:
        far_failed(conn)
    else:
        near_failed(conn)


# The far side.


cdef void far_failed(Conn *conn) noexcept nogil:
    let_go(&conn.sides[1], True)
    ask(conn, E_FAR_FAILED)


cdef int connect_error(int fd) noexcept nogil:
    """The errno a connect ended with, 0 for success.  A connection with itself counts as
    refused: nobody listens there, and the kernel has picked the very port that was dialled to
    dial from (TCP's simultaneous open)."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    cdef sockaddr_storage here, there
    cdef unsigned int here_size = sizeof(here), there_size = sizeof(there)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    if error:
        return error
    if getsockname(fd, <sockaddr *>&here, &here_size) != 0 or getpeername(fd, <sockaddr *>&there, &there_size) != 0:
        return errno
    if here.ss_family == AF_UNIX or here_size != there_size:
        return 0
    return ECONNREFUSED if memcmp(&here, &there, here_size) == 0 else 0


cdef void connect_turn(Side *side) noexcept nogil:
    cdef int error = connect_error(side.fd)
    if error:
        fail(side, F_OS, error)
        far_failed(side.conn)
    else:
        connected(side)


cdef void connected(Side *side) noexcept nogil:
    cdef Conn *conn = side.conn
    if side.ssl_ctx == NULL:
        mute(side)
        ask(conn, E_FAR_READY)
        return
    conn.mode = M_SHAKING
    conn.phase = P_HANDSHAKING_FAR
    conn.started = conn.worker.now
    if begin_tls(side) < 0 or start_patience(side, conn.limits[0]) < 0:
        far_failed(conn)
    else:
        after_step(side, shake(side, conn.worker.received, 0))


cdef int start_patience(Side *side, double limit) noexcept nogil:
    cdef Conn *conn = side.conn
    if set_deadline(conn, conn.worker.now + limit if limit else 0) < 0:
        return fail(side, F_MEMORY)
    return 0


# Commands.


cdef void obey(Worker *worker, Command *command) noexcept nogil:
    cdef Conn *conn = command.conn
    if command.kind == C_STOP:
        worker.stopping = True
    elif command.kind == C_RELEASE:
        free(conn)
    elif conn.mode == M_DEAD:
        if command.kind == C_CONNECT:
            close(command.fd)
    elif command.kind == C_CUT:
        if conn.mode != M_PARTING:
            conn.failure = F_CUT
        die(conn, False)
    elif command.kind == C_SHAKE_NEAR:
        obey_shake_near(conn, command.limit)
    elif command.kind == C_WATCH:
        watch_loss(conn)
    elif command.kind == C_CONNECT:
        obey_connect(conn, command)
    elif command.kind == C_RELAY:
        conn.limits[0], conn.limits[1] = command.limit, command.other_limit
        relay_begin(conn, command.data, command.size)
    free(command.data)
    free(command)


cdef void obey_shake_near(Conn *conn, double limit) noexcept nogil:
    cdef Side *side = &conn.sides[0]
    conn.mode = M_HELLO
    conn.phase = P_HANDSHAKING_NEAR
    if start_patience(side, limit) < 0 or watch(side, EPOLLIN) < 0:
        near_failed(conn)


cdef void watch_loss(Conn *conn) noexcept nogil:
    """Notice a reset of the near side while the far side is being reached."""
    if watch(&conn.sides[0], 0) < 0:
        die(conn, False)


cdef void near_lost(Side *side, uint32_t events) noexcept nogil:
    if events & EPOLLERR:
        side.conn.failure = F_NONE  # of the candidate before
        fail(side, F_OS, pending_error(side.fd))
        die(side.conn, False)
    else:  # bytes may be before it, which are read when they are wanted
        side.hung_up = True
        mute(side)


cdef void obey_connect(Conn *conn, Command *command) noexcept nogil:
    cdef Side *side = &conn.sides[1]
    conn.failure = F_NONE
    conn.phase = P_CONNECTING
    conn.mode = M_CONNECTING
    conn.limits[0] = command.other_limit
    side.fd = command.fd
    watch_loss(conn)
    if conn.mode == M_DEAD:
        return
    if not command.waiting:
        connected(side)
    elif start_patience(side, command.limit) < 0 or watch(side, EPOLLOUT) < 0:
        far_failed(conn)


cdef void obey_all(Worker *worker) noexcept nogil:
    cdef Command *command
    cdef Command *following
    silence(worker.bell)
    pthread_mutex_lock(&worker.lock)
    command = worker.first
    worker.first = worker.last = NULL
    pthread_mutex_unlock(&worker.lock)
    while command != NULL:
        following = command.next
        obey(worker, command)
        command = following


# Deadlines.


cdef void expire(Conn *conn) noexcept nogil:
    if conn.mode == M_RELAYING:
        check_patience(conn)
    elif conn.mode == M_PARTING:
        die(conn, True)
    elif conn.phase == P_HANDSHAKING_NEAR:
        fail(&conn.sides[0], F_TIMEOUT)
        near_failed(conn)
    else:
        fail(&conn.sides[1], F_TIMEOUT)
        far_failed(conn)


cdef int patience_of(Worker *worker) noexcept nogil:
    """Milliseconds for epoll; rounded up, so that a deadline is over when it wakes."""
    cdef double left
    if worker.heap_size == 0:
        return -1
    left = worker.heap[0].due - clock_of(CLOCK_MONOTONIC)
    if left <= 0:
        return 0
    return <int>min(left * 1000, 3600000.0) + 1


# The turn.


cdef void dispatch(Side *side, uint32_t events) noexcept nogil:
    cdef int mode = side.conn.mode
    if mode == M_DEAD:
        return  # an earlier event of this batch ended it
    if mode == M_RELAYING:
        relay_turn(side, events)
    elif side.index == 0 and (mode == M_ASKING or side.conn.phase >= P_CONNECTING):
        near_lost(side, events)
    elif mode == M_HELLO:
        hear_hello(side)
    elif mode == M_SHAKING:
        shake_turn(side, events)
    elif mode == M_CONNECTING:
        connect_turn(side)
    elif mode == M_PARTING:
        part_turn(side, events)


cdef void work(Worker *worker) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef int count, at
    cdef bint commanded
    while not worker.stopping:
        count_set(&worker.busy_since, 0)
        count = epoll_wait(worker.epoll, events, EVENTS, patience_of(worker))
        worker.now = clock_of(CLOCK_MONOTONIC)
        count_set(&worker.busy_since, <int64_t>(worker.now * 1000))
        commanded = False
        for at in range(count):
            if events[at].data.ptr == NULL:
                commanded = True
            else:
                dispatch(<Side *>events[at].data.ptr, events[at].events)
        if commanded:  # last: a connection is freed here, and may have had an event
            obey_all(worker)
        while worker.heap_size and worker.heap[0].due <= worker.now:
            expire(worker.heap[0])
