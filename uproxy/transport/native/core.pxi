"""A part of `_engine`: the threads, for the event loop."""


cdef class Core:
    """The threads, what they share, and the queue of their reports."""

    cdef Shared *shared
    cdef list threads
    cdef object make_handle

    def __cinit__(self):
        self.shared = <Shared *>calloc(1, sizeof(Shared))
        if self.shared == NULL:
            raise MemoryError
        self.shared.reports.bell = -1

    def __init__(self, int threads, dict addresses, stand_ins, options, judge, make_handle):
        """`stand_ins` (`libssl.stand_ins`) replace what a peer's certificate needn't keep;
        `options` are (level, name, value) for TCP sockets that are dialled; `judge`
        (`libssl.judge`) verifies a peer's certificates; `make_handle` makes a ConnectionHandle,
        given the listener's state (`set_door_state`), when a connection is first reported."""
        global _judge
        cdef Shared *shared = self.shared
        cdef int at
        _judge, self.make_handle = judge, make_handle
        take_addresses(addresses, stand_ins[0], stand_ins[1])
        if len(options) > MAX_OPTIONS:
            raise ValueError("too many socket options")
        for at, (level, name, value) in enumerate(options):
            shared.options[at].level, shared.options[at].name = level, name
            shared.options[at].value = value
        shared.option_count = len(options)
        shared.ask_verifier, shared.share_refusal = ask_verifier, share_refusal
        fill_stream_calls(&shared.stream_calls)
        fill_session_calls(&shared.session_calls)
        for at in range(5):
            shared.limits.keys[at] = int.from_bytes(os.urandom(8), "big")
        for at in range(HASH_KEYS):
            shared.verify_cache.keys[at] = int.from_bytes(os.urandom(8), "big")
        pthread_mutex_init(&shared.reports.lock, NULL)
        pthread_mutex_init(&shared.limits.lock, NULL)
        pthread_mutex_init(&shared.verify_cache.lock, NULL)
        pthread_mutex_init(&shared.helpers.lock, NULL)
        pthread_mutex_init(&shared.helpers.verifying, NULL)
        pthread_cond_init(&shared.helpers.changed, NULL)
        shared.reports.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if shared.reports.bell < 0:
            raise OSError(errno, "no eventfd for the engine")
        shared.workers = <Worker **>calloc(threads, sizeof(void *))
        if shared.workers == NULL:
            raise MemoryError
        for at in range(threads):
            shared.workers[at] = new_worker(shared)
            shared.count += 1
        self.threads = [
            threading.Thread(target=self._run, args=(at,), name=f"uproxy-{at}", daemon=True)
            for at in range(threads)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, int at):
        """The main function of the thread of worker `at`."""
        cdef Worker *worker = self.shared.workers[at]
        with nogil:
            work(worker)

    def fileno(self):
        """Return a descriptor that is readable when `take` has something."""
        return self.shared.reports.bell

    def set_limits(self, int connections, int per_source, int handshakes):
        """Set how many connections there may be at once, how many from one source (0: no limit),
        and how many handshakes in flight."""
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        word_set(&limits.most, connections)
        limits.most_per_source = per_source
        limits.most_slots = handshakes
        pthread_mutex_unlock(&limits.lock)

    def refused(self):
        """Return how many arrivals each limit has refused: connections, per source, handshakes."""
        cdef LimitState *limits = &self.shared.limits
        pthread_mutex_lock(&limits.lock)
        counts = limits.full, limits.source_full, limits.no_slot
        pthread_mutex_unlock(&limits.lock)
        return counts

    def pooled_tunnels(self):
        """Return how many tunnels that the threads have dialled are there."""
        return word_get(&self.shared.pooled_tunnels)

    def retire(self, uint64_t plan):
        """Have no stream opened any more on tunnels that were dialled with a plan (`Way`)."""
        cdef Command *command
        cdef int at
        for at in range(self.shared.count):
            command = new_command(C_RETIRE, NULL)
            if command == NULL:
                raise MemoryError
            command.plan = plan
            send_command(self.shared.workers[at], command)

    def alive(self):
        """Return how many connections haven't been released."""
        return word_get(&self.shared.alive)

    def busy_since(self):
        """Return when the oldest turn that still runs began (monotonic seconds); None if none runs,
        0.0 if a thread has ended."""
        cdef int at
        began = helpers_busy_since(&self.shared.helpers)
        since = [began / 1000] if began else []
        for at in range(len(self.threads)):
            if not self.threads[at].is_alive():
                return 0.0
            began = long_get(&self.shared.workers[at].busy_since)
            if began:
                since.append(began / 1000)
        return min(since, default=None)

    def take(self, int most):
        """Return what was asked or has happened since the last call: `(handle, events)` for each
        connection, `most` at most.  `events` are bits of ARRIVED … CLOSED.  If there are more,
        `fileno` stays readable."""
        cdef ReportQueue *reports = &self.shared.reports
        cdef Connection *connection
        cdef int events = 0
        taken = []
        clear_bell(reports.bell)
        pthread_mutex_lock(&reports.lock)
        reports.rung = False
        if reports.waiting >= LARGE_BATCH:
            reports.last_large_batch = clock_of(CLOCK_MONOTONIC)
        pthread_mutex_unlock(&reports.lock)
        while len(taken) < most:
            pthread_mutex_lock(&reports.lock)
            connection = reports.first
            if connection != NULL:
                events = remove_report(reports, connection)
            pthread_mutex_unlock(&reports.lock)
            if connection == NULL:
                return taken
            taken.append((self._handle_of(connection), events))
        ring_loop(reports)
        return taken

    cdef ConnectionHandle _handle_of(self, Connection *connection):
        """Return the connection's handle, which is made for its first report."""
        cdef ConnectionHandle handle
        if connection.handle == NULL:
            carrier = None
            if connection.carried_by != NULL:
                carrier = self._handle_of(connection.carried_by)  # its end is reported later
            handle = self.make_handle(
                <object>connection.door_state.python, carrier, bool(connection.is_pooled))
            handle.connection, handle.core = connection, self
            Py_INCREF(handle)
            connection.handle = <PyObject *>handle
        return <ConnectionHandle>connection.handle

    def cut_all(self):
        """Reset each connection; one that is on its way between two threads escapes."""
        self._post_to_all(C_CUT_ALL, NULL)

    def stop(self):
        """End the threads; each handle must have been released."""
        cdef int at
        self._post_to_all(C_STOP, NULL)
        with nogil:
            stop_helpers(&self.shared.helpers)
        for thread in self.threads:
            thread.join()
        for at in range(len(self.threads)):
            free_worker(self.shared.workers[at])
        self.threads.clear()
        self.shared.count = 0
        while self.shared.verify_cache.count:
            release_verified(
                &self.shared.verify_cache, drop_oldest_verified(&self.shared.verify_cache))
        close(self.shared.reports.bell)
        self.shared.reports.bell = -1

    cdef _post_to_all(self, int kind, Listener *listener):
        """Send each worker a command about a listener, or about none (NULL)."""
        cdef int at
        for at in range(self.shared.count):
            self._post(self.shared.workers[at], kind, listener)

    cdef _post(self, Worker *worker, int kind, Listener *listener):
        cdef Command *command = new_command(kind, NULL)
        if command == NULL:
            raise MemoryError
        command.listener = listener
        send_command(worker, command)

    def __dealloc__(self):
        if self.shared != NULL and self.shared.count == 0:  # otherwise threads have it
            free(self.shared.workers)
            free(self.shared)
