"""A part of `_engine`: one connection, for the event loop."""


cdef class ConnectionHandle:
    """One connection, for the loop, from its first report to `release`."""

    cdef Connection *connection
    cdef Core core
    cdef int last_state
    cdef public flag inbound, was_reported, is_over, shares_tls  # the loop's own notes, in bytes
    cdef int64_t last_counts[2]

    @property
    def state_number(self):
        """The state's number in STATES; after the end that of the state before."""
        cdef int state
        if self.connection == NULL:
            return self.last_state
        state = state_of(self.connection)
        return self.connection.ended_in if state == S_CLOSED else state

    def enter_state(self, int state):
        """Enter a state, while the connection waits for the loop."""
        enter_state_by_loop(self.connection, state)

    def count(self, int side):
        """Return the application bytes received from downstream (0) or upstream (1)."""
        if self.connection == NULL:
            return self.last_counts[side]
        return long_get(&self.connection.counts[side])

    def source(self):
        """Return the caller's address: (16 bytes of host, port), or None on a unix socket."""
        return endpoint_of(&self.connection.source)

    def local(self):
        """Return the address at which it arrived, as `source` does."""
        return endpoint_of(&self.connection.local)

    def in_clear(self):
        """Return whether it makes no handshake, though others at its door do."""
        return self.connection.in_clear

    def meant(self):
        """Return the address that a CONNECT names or a captured connection was made to; or None."""
        return endpoint_of(&self.connection.meant)

    def take_spoken(self):
        """Return, once, what a stream's CONNECT says of a caller: the values of `x-uproxy-caller`,
        and those of `x-uproxy-proof`, in the order received.  None: it says nothing."""
        return take_spoken(self.connection)

    def why_unnamed(self):
        """Return why a request on a tunnel was refused without a stream, in words, and the error
        code of that (RFC 9113 §7); None: it wasn't, or there was no memory."""
        return words_of_unnamed(self.connection.unnamed)

    def stream_count(self):
        """Return how many streams a connection carries now."""
        return 0 if self.connection == NULL else word_get(&self.connection.streams)

    def has_shared_handshake(self):
        """Whether its handshake is that of a tunnel which wasn't made for it."""
        return bool(self.connection.shares_tls)

    def dialled_from_endpoint(self):
        """Return our own address on the upstream connection, as `source` does; None where it was
        never connected, too."""
        return endpoint_of(&self.connection.dialled_from)

    def lasted(self):
        """Return the seconds from its acceptance to its end, or until now."""
        cdef double until = self.connection.finished_at or clock_of(CLOCK_MONOTONIC)
        return until - self.connection.accepted_at

    def cached_route(self):
        """Return the cached route that it uses; None if the loop is to give one."""
        if self.connection.cached_route == NULL:
            return None
        return <object>self.connection.cached_route.route

    def mark_decided(self):
        """Note that the connection was admitted: `undecided` no longer counts it."""
        mark_decided(self.connection)

    def handshake_downstream(self, downstream, double limit):
        """Shake hands with downstream within `limit` seconds.  HANDSHAKEN, ADMITTED or CLOSED
        follows."""
        self._use(0, downstream)
        self._post(new_command(C_HANDSHAKE, self.connection), limit, 0)

    def watch_loss(self):
        """Have the connection ended if the downstream side is reset from now on."""
        self._post(new_command(C_WATCH_LOSS, self.connection), 0, 0)

    def dial(self, bytes target, upstream, double limit, double handshake_limit, way=None):
        """Dial `target` (a packed sockaddr), and shake hands as `upstream` says; None: no TLS.
        With a `way` (Way) open a stream on a tunnel to `target` instead, which may be there
        already.  Limits in seconds.  UPSTREAM_READY, UPSTREAM_FAILED or CLOSED follows."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        fill_target(&command.target, &command.target_size, target)
        if way is not None:
            command.way = <Way *>calloc(1, sizeof(Way))
            if command.way == NULL:
                free(command)
                raise MemoryError
            fill_way(command.way, way)
        self._use(1, upstream)
        if way is not None and upstream is not None:
            Py_INCREF(upstream[0])  # for the tunnel, if one is dialled
            self.connection.sides[1].channel.owned_contexts += 1
        self._post(command, limit, handshake_limit)

    def dial_connected(self, int fd, upstream, double handshake_limit):
        """Go on as after `dial`, with a connected socket, which the thread owns from now on."""
        cdef Command *command = new_command(C_DIAL, self.connection)
        if command == NULL:
            raise MemoryError
        command.fd = fd
        self._use(1, upstream)
        self._post(command, 0, handshake_limit)

    def relay(self, bytes preface, double idle, double half_close):
        """Move bytes, `preface` first to upstream; the limits are seconds, 0: none.  CLOSED
        follows."""
        cdef Command *command = new_command(C_RELAY, self.connection)
        if command != NULL and preface:
            command.data = <char *>malloc(len(preface))
            if command.data == NULL:
                free(command)
                command = NULL
            else:
                memcpy(command.data, <char *>preface, len(preface))
                command.size = len(preface)
        self._post(command, idle, half_close)

    def cache_route(self, route, bint by_source, bint by_meant, bint by_local, bytes target,
                    upstream, way, time_limits):
        """Have later callers that show the same leaf (and, if `by_source`, come from the same host,
        if `by_meant`, are meant for the same address, if `by_local`, arrive at the same
        address) get `route` without asking; `target`, `upstream` and
        `way` are as in `dial`, `time_limits` connect, handshake, idle and half_close, in seconds.
        False if there are too many cached routes."""
        cdef CachedRoute *cached_route
        cdef uint64_t serial = 0
        if self.connection.sides[0].channel.verified_peer != NULL:
            serial = self.connection.sides[0].channel.verified_peer.serial
        if (not is_route_valid(self.connection)
                or find_cached_route(self.connection, serial) != NULL):
            return True
        cached_route = <CachedRoute *>calloc(1, sizeof(CachedRoute))
        if cached_route == NULL:
            raise MemoryError
        Py_INCREF(route)
        cached_route.route, cached_route.serial = <PyObject *>route, serial
        cached_route.by_source, cached_route.by_meant = by_source, by_meant
        cached_route.meant, cached_route.by_local = self.connection.meant, by_local
        cached_route.local = self.connection.local
        memcpy(cached_route.host, self.connection.source.host, 16)
        fill_setup(&cached_route.upstream, upstream)
        fill_target(&cached_route.target, &cached_route.target_size, target)
        if way is not None:
            fill_way(&cached_route.way, way)
        cached_route.connect, cached_route.handshake = time_limits[:2]
        cached_route.idle, cached_route.half_close = time_limits[2:]
        if add_cached_route(self.connection.door_state, cached_route):
            return True
        free_cached_route(cached_route)
        return False

    def release_door_state(self):
        """Release the DoorState under which an open connection arrived, and the TLS contexts of its
        handshakes."""
        leave_door_state(self.connection)

    def take_door_state(self):
        """Hold the listener's DoorState for a connection that has released its own, and waits for
        the loop.  False: the listener has none any more."""
        return hold_door_state(self.connection)

    def cut(self, int status=0):
        """Reset both sides.  CLOSED follows.  A CONNECT without an answer gets this HTTP status;
        -1: none, but a reset that says that it may be sent elsewhere."""
        cdef Command *command = new_command(C_CUT, self.connection)
        if command != NULL:
            command.result = status
        self._post(command, 0, 0)

    def failure(self):
        """Return why it ended, after CLOSED: (one of FAILURES, side, errno or Excess, OpenSSL's
        error or how much there was)."""
        return _fault(&self.connection.fault)

    def candidate_failure(self):
        """Return the same of a candidate, after UPSTREAM_FAILED."""
        return _fault(&self.connection.candidate_fault)

    def verdict(self, int side):
        """Return the verified peer of a side, or the exception that refused it; or None."""
        cdef Channel *which = &self.connection.sides[side].channel
        if which.verdict == V_ACCEPTED and which.verified_peer != NULL:
            return <object>which.verified_peer.peer
        return None if which.refused_with == NULL else <object>which.refused_with

    def facts(self):
        """Return version, cipher, group and seconds of the last handshake that succeeded; None
        without one."""
        if self.connection.version == NULL:
            return None
        return (text_of(self.connection.version), text_of(self.connection.cipher),
                text_of(self.connection.group), self.connection.handshake_seconds)

    def release(self):
        """Give the memory back, after CLOSED.  Only the state and the counts can be read then."""
        cdef Connection *connection = self.connection
        cdef VerifyCache *verify_cache = &self.core.shared.verify_cache
        self.last_state = connection.ended_in
        self.last_counts[0], self.last_counts[1] = connection.counts[0], connection.counts[1]
        forget_handshake(&connection.sides[0].channel, verify_cache)
        forget_handshake(&connection.sides[1].channel, verify_cache)
        if connection.door_state != NULL:
            release_door_state(connection.door_state)
        release_listener(connection.listener)
        self._post(new_command(C_RELEASE, connection), 0, 0)
        self.connection = NULL
        word_add(&self.core.shared.alive, -1)
        Py_DECREF(self)

    cdef _use(self, int side, handshake):
        """Have the side's next handshake made with this TlsSetup; None: no TLS."""
        cdef Channel *which = &self.connection.sides[side].channel
        forget_handshake(which, &self.core.shared.verify_cache)
        fill_setup(&which.tls_setup, handshake)
        which.owned_contexts = 0 if handshake is None else 1

    cdef _post(self, Command *command, double limit, double other_limit):
        if command == NULL:
            raise MemoryError
        command.limit, command.other_limit = limit, other_limit
        send_command(self.connection.worker, command)


cdef _fault(Fault *fault):
    return FAILURES[fault.what], fault.side, fault.error, fault.code
