"""A part of `_engine`: one listening socket, for the event loop."""


cdef class ListenerHandle:
    """A listening socket from which all threads accept."""

    cdef Core core
    cdef Listener *listener

    def __cinit__(self, Core core, int fd):
        self.listener = <Listener *>calloc(1, sizeof(Listener))
        if self.listener == NULL:
            raise MemoryError
        pthread_mutex_init(&self.listener.lock, NULL)
        self.core = core
        self.listener.kind, self.listener.fd = K_LISTENER, fd
        self.listener.held = 1 + core.shared.count
        self.listener.paused, self.listener.port = True, port_of(fd)

    def set_door_state(self, state, setup, bint ask, bint tls, double limit, tunnels, captured):
        """Set how connections begin from now on, without a cached route.  `make_handle` gets
        `state`.  If `ask`, each is reported with ARRIVED at once.  If `tls`, it makes a handshake
        as `setup`, a TlsSetup, says; without one it is reported with ARRIVED at its first
        byte.  `limit` is the handshake's, in seconds; 0: none.  `tunnels`: a TunnelLimits, or None:
        there are none.  `captured`: a `_engine.Captured`, or None: nothing is captured."""
        cdef DoorState *door_state = <DoorState *>calloc(1, sizeof(DoorState))
        if door_state == NULL:
            raise MemoryError
        pthread_mutex_init(&door_state.lock, NULL)
        Py_INCREF(state)
        door_state.python, door_state.held = <PyObject *>state, 1
        door_state.ask, door_state.tls, door_state.limit = ask, tls, limit
        fill_captured(door_state, captured)
        fill_setup(&door_state.downstream, setup)
        fill_limits(&door_state.tunnels, tunnels)
        self._exchange(door_state)

    cdef _exchange(self, DoorState *door_state):
        """Have streams and connections arrive under another DoorState, or (NULL) under none."""
        cdef DoorState *before
        pthread_mutex_lock(&self.listener.lock)
        before = self.listener.door_state
        pointer_set(<void **>&self.listener.door_state, door_state)
        pthread_mutex_unlock(&self.listener.lock)
        if before != NULL:
            release_door_state(before)

    def drain(self):
        """Let the tunnels of the listener's callers end with their last streams."""
        self.core._post_to_all(C_DRAIN, self.listener)

    def resume(self):
        """Accept, at first or after a pause."""
        cdef epoll_event event
        cdef int at, error = 0
        event.events = EPOLLIN | EPOLLEXCLUSIVE
        event.data.ptr = self.listener
        pthread_mutex_lock(&self.listener.lock)
        if self.listener.paused and not self.listener.closed:
            self.listener.paused = False
            for at in range(self.core.shared.count):
                if epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_ADD,
                             self.listener.fd, &event) != 0:
                    error = errno
        pthread_mutex_unlock(&self.listener.lock)
        if error:  # a thread would never accept: all again later
            pause(self.core.shared, self.listener, error)

    def shortage(self):
        """Return the errno for which accepting has paused since the last call; 0: it hasn't."""
        cdef int error
        pthread_mutex_lock(&self.listener.lock)
        error, self.listener.shortage = self.listener.shortage, 0
        pthread_mutex_unlock(&self.listener.lock)
        return error

    def undecided(self):
        """Return how many arrivals are neither admitted nor refused."""
        return word_get(&self.listener.undecided)

    def close(self, int most):
        """Accept the connections that wait in the kernel's queue, `most` at most, and none later:
        the socket may then be closed.  No cached route is used any more.  Streams arrive until
        `forget`, under the last `set_door_state`; tunnels end with those that they have."""
        cdef Listener *listener = self.listener
        cdef Connection *connection = NULL
        cdef int at, result, error = 0
        if listener.closed:
            return
        for at in range(most):
            result = accept_for_worker(listener, self.core.shared, NULL, &connection, &error)
            if result != A_OTHERS and result != A_GONE:
                break
        pthread_mutex_lock(&listener.lock)
        word_set(<int *>&listener.closed, True)
        if not listener.paused:
            for at in range(self.core.shared.count):
                epoll_ctl(self.core.shared.workers[at].epoll, EPOLL_CTL_DEL, listener.fd, NULL)
        pthread_mutex_unlock(&listener.lock)
        self.core._post_to_all(C_DRAIN, listener)
        self.core._post_to_all(C_RELEASE_LISTENER, listener)

    def forget(self):
        """Have nobody decide about streams any more, after `close`."""
        self._exchange(NULL)

    def __dealloc__(self):
        if self.listener != NULL:
            self._exchange(NULL)
            release_listener(self.listener)
