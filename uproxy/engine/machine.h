/* What Cython can't say: a variable per thread, and atomic words. */
#ifndef UPROXY_MACHINE_H
#define UPROXY_MACHINE_H

static __thread void *uproxy_shaking; /* the side inside SSL_do_handshake on this thread */

static inline void *shaking_get(void) { return uproxy_shaking; }
static inline void shaking_set(void *side) { uproxy_shaking = side; }

#define word_add(at, by) __atomic_add_fetch((at), (by), __ATOMIC_RELAXED)
#define word_get(at) __atomic_load_n((at), __ATOMIC_RELAXED)
#define word_set(at, to) __atomic_store_n((at), (to), __ATOMIC_RELAXED)

#endif
