"""Handshakes of callers, done by helper threads while uncached callers come.

To verify a certificate that isn't in the verify cache needs the GIL, and would stall the relays of
a worker that waits for it.  So for OFFLOAD_FOR_MS after one has come, each step of a caller's
handshake is done by a helper, and comes back to the worker as a command (C_STEP_DONE).  One
helper always waits for the next step, up to MAX_HELPERS of them; a helper ends when it had
nothing to do for HELPER_IDLE_S.  The first uncached caller still stalls its worker.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, timespec

from uproxy.transport.native.system cimport (
    HELPER_IDLE_S, OFFLOAD_FOR_MS, clock_of, deadline_of, long_get, long_set,
    pthread_cond_broadcast, pthread_cond_signal, pthread_cond_timedwait, pthread_cond_wait,
    pthread_create, pthread_detach, pthread_mutex_lock, pthread_mutex_unlock, pthread_t,
)
from uproxy.transport.native.codes cimport C_STEP, C_STEP_DONE, F_NONE, MAX_HELPERS
from uproxy.transport.native.types cimport Command, Connection, Helpers, Shared, Side, Worker
from uproxy.transport.native.queues cimport new_command, send_command
from uproxy.transport.native.channel cimport unwatch
from uproxy.transport.native.handshake cimport continue_handshake


cdef inline bint uncached_peers_come(Connection *connection) noexcept nogil:
    """Whether an uncached caller has come within OFFLOAD_FOR_MS."""
    cdef int64_t came = long_get(&connection.worker.shared.uncached_came)
    return came != 0 and <int64_t>(connection.worker.now * 1000) - came < OFFLOAD_FOR_MS


cdef inline bint offload(Side *side) noexcept nogil:
    """Give a side's next step to a helper.  False if no helper runs or can be started, or there is
    no memory: the worker does the step."""
    cdef Connection *connection = side.connection
    cdef Helpers *helpers = &connection.worker.shared.helpers
    cdef Command *command = new_command(C_STEP, connection)
    cdef bint taken
    if command == NULL:
        return False
    pthread_mutex_lock(&helpers.lock)
    if helpers.waiting >= helpers.idle:
        start_helper(connection.worker.shared)
    taken = helpers.count > 0 and not helpers.stopping
    if taken:
        unwatch(&side.channel)
        connection.deferred_failure = F_NONE
        connection.is_offloaded = True
        add_step(helpers, command)
    pthread_mutex_unlock(&helpers.lock)
    if not taken:
        free(command)
    return taken


cdef inline void add_step(Helpers *helpers, Command *command) noexcept nogil:
    """Append a step, under the lock, and wake a helper."""
    if helpers.first == NULL:
        helpers.first = command
    else:
        helpers.last.next = command
    helpers.last = command
    helpers.waiting += 1
    pthread_cond_signal(&helpers.changed)


cdef inline void start_helper(Shared *shared) noexcept nogil:
    """Start one more helper, under the lock.  If that fails, those that run do all steps."""
    cdef Helpers *helpers = &shared.helpers
    cdef Worker *helper
    cdef pthread_t thread
    cdef int at
    if helpers.count >= MAX_HELPERS or helpers.stopping:
        return
    helper = <Worker *>calloc(1, sizeof(Worker))
    if helper == NULL:
        return
    helper.shared = shared
    if pthread_create(&thread, NULL, run_helper, helper) != 0:
        free(helper)
        return
    pthread_detach(thread)
    for at in range(MAX_HELPERS):
        if helpers.all[at] == NULL:
            helpers.all[at] = helper
            break
    helpers.count += 1


cdef inline void *run_helper(void *which) noexcept nogil:
    """The main function of a helper thread: do steps until there are none."""
    cdef Worker *helper = <Worker *>which
    cdef Helpers *helpers = &helper.shared.helpers
    cdef Command *command
    while True:
        command = take_step(helpers)
        if command == NULL:
            break
        long_set(&helper.busy_since, <int64_t>(clock_of(CLOCK_MONOTONIC) * 1000))
        command.connection.sides[0].channel.running_on = helper
        command.result = continue_handshake(&command.connection.sides[0])
        command.kind = C_STEP_DONE
        long_set(&helper.busy_since, 0)
        send_command(command.connection.worker, command)  # the owner touches it from then on
    end_helper(helpers, helper)
    return NULL


cdef inline Command *take_step(Helpers *helpers) noexcept nogil:
    """Wait for a step.  NULL: none came for HELPER_IDLE_S, or the engine stops."""
    cdef timespec until = deadline_of(CLOCK_REALTIME, HELPER_IDLE_S)
    cdef Command *command
    cdef int late = 0
    pthread_mutex_lock(&helpers.lock)
    helpers.idle += 1
    while helpers.first == NULL and not helpers.stopping and late == 0:
        late = pthread_cond_timedwait(&helpers.changed, &helpers.lock, &until)
    helpers.idle -= 1
    command = helpers.first
    if command != NULL:
        helpers.first = command.next
        helpers.waiting -= 1
    pthread_mutex_unlock(&helpers.lock)
    return command


cdef inline void end_helper(Helpers *helpers, Worker *helper) noexcept nogil:
    """Forget a helper that ends, and free its memory."""
    cdef int at
    pthread_mutex_lock(&helpers.lock)
    for at in range(MAX_HELPERS):
        if helpers.all[at] == helper:
            helpers.all[at] = NULL
    helpers.count -= 1
    pthread_cond_broadcast(&helpers.changed)
    pthread_mutex_unlock(&helpers.lock)
    free(helper)


cdef inline void stop_helpers(Helpers *helpers) noexcept nogil:
    """Stop all helpers and wait until the last has ended, without the GIL, which one may need."""
    pthread_mutex_lock(&helpers.lock)
    helpers.stopping = True
    pthread_cond_broadcast(&helpers.changed)
    while helpers.count:
        pthread_cond_wait(&helpers.changed, &helpers.lock)
    pthread_mutex_unlock(&helpers.lock)


cdef inline int64_t helpers_busy_since(Helpers *helpers) noexcept nogil:
    """Return when the oldest running step began (monotonic milliseconds); 0: none runs."""
    cdef int64_t earliest = 0, since
    cdef int at
    pthread_mutex_lock(&helpers.lock)
    for at in range(MAX_HELPERS):
        if helpers.all[at] != NULL:
            since = long_get(&helpers.all[at].busy_since)
            if since and (earliest == 0 or since < earliest):
                earliest = since
    pthread_mutex_unlock(&helpers.lock)
    return earliest
