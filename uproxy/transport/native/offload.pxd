"""Handshakes beside uncached peers, whose leaves have to be judged with the GIL: no worker waits
for that, and no cached peer's handshake waits behind it.

While uncached peers come, a step of a caller's handshake that may show a leaf is done by another
thread, and comes back as a command.  There is always one that waits for the next step, up to
MAX_HELPERS of them: a helper that judges is replaced by another.  They are made when they are
needed and end when they are not.  The first uncached peer still holds its worker up.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME

from uproxy.transport.native.queues cimport new_command, send_command
from uproxy.transport.native.types cimport (
    C_STEP, C_STEP_DONE, F_NONE, MAX_HELPERS, Command, Connection, Helpers, Shared, Side, Worker,
)
from uproxy.transport.native.handshake cimport continue_handshake
from uproxy.transport.native.side cimport unwatch
from uproxy.transport.native.system cimport (
    HELPER_IDLE_S, OFFLOAD_FOR_MS, clock_of, deadline_of, long_get, long_set, pthread_cond_broadcast,
    pthread_cond_signal, pthread_cond_timedwait, pthread_cond_wait, pthread_create,
    pthread_detach, pthread_mutex_lock, pthread_mutex_unlock, pthread_t, timespec,
)


cdef inline bint uncached_peers_come(Connection *connection) noexcept nogil:
    cdef int64_t came = long_get(&connection.worker.shared.uncached_came)
    return came != 0 and <int64_t>(connection.worker.now * 1000) - came < OFFLOAD_FOR_MS


cdef inline bint offload(Side *side) noexcept nogil:
    """Have the next step done by a helper.  False: there is none, nor memory for one."""
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
        unwatch(side)
        connection.deferred_failure = F_NONE
        connection.is_offloaded = True
        add_step(helpers, command)
    pthread_mutex_unlock(&helpers.lock)
    if not taken:
        free(command)
    return taken


cdef inline void add_step(Helpers *helpers, Command *command) noexcept nogil:
    if helpers.first == NULL:
        helpers.first = command
    else:
        helpers.last.next = command
    helpers.last = command
    helpers.waiting += 1
    pthread_cond_signal(&helpers.changed)


cdef inline void start_helper(Shared *shared) noexcept nogil:
    """Under the lock.  Where it can't be done, those that are there do everything."""
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
    """A helper's life."""
    cdef Worker *helper = <Worker *>which
    cdef Helpers *helpers = &helper.shared.helpers
    cdef Command *command
    while True:
        command = take_step(helpers)
        if command == NULL:
            break
        long_set(&helper.busy_since, <int64_t>(clock_of(CLOCK_MONOTONIC) * 1000))
        command.connection.running_on = helper
        command.result = continue_handshake(&command.connection.sides[0])
        command.kind = C_STEP_DONE
        long_set(&helper.busy_since, 0)
        send_command(command.connection.worker, command)  # the owner touches it from then on
    end_helper(helpers, helper)
    return NULL


cdef inline Command *take_step(Helpers *helpers) noexcept nogil:
    """NULL: nothing came for HELPER_IDLE_S, or the engine stops."""
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
    """Wait until the last one has ended; without the GIL, which one may need to."""
    pthread_mutex_lock(&helpers.lock)
    helpers.stopping = True
    pthread_cond_broadcast(&helpers.changed)
    while helpers.count:
        pthread_cond_wait(&helpers.changed, &helpers.lock)
    pthread_mutex_unlock(&helpers.lock)


cdef inline int64_t helpers_busy_since(Helpers *helpers) noexcept nogil:
    """When the longest step that goes on began (monotonic milliseconds); 0: there is none."""
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
