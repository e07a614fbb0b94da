/* What Cython can't say: a variable per thread, atomic words, and a table of functions that
   is filled once, before any thread runs. */
#ifndef UPROXY_MACHINE_H
#define UPROXY_MACHINE_H

#include <sys/epoll.h>

#include <stddef.h>
#include <stdint.h>

#define LISTEN (EPOLLIN | EPOLLRDHUP) /* for bytes, or the end of them */
#define QUIET 0.01 /* seconds that reports which ask nothing wait for others to come along */
#define BUSY 0.1 /* seconds between two rounds of these: what is told together costs half */
#define LINGER 1.0 /* seconds a refused peer has to read its alert */
#define VERDICT_LIFE 60.0 /* seconds a verdict on a leaf holds at most */
#define UNCACHED_FOR 1000 /* milliseconds after a leaf had to be judged, in which others may */
#define HELPER_IDLE 10 /* seconds without a step, after which a helper ends */
#define SETTLED_AFTER 1.0 /* seconds after which a connection is one that stays */
#define SLIM_AFTER 0.25 /* seconds between two looks for output buffers that are too big */

static __thread void *uproxy_shaking; /* the side inside SSL_do_handshake on this thread */

static inline void *shaking_get(void) { return uproxy_shaking; }
static inline void shaking_set(void *side) { uproxy_shaking = side; }

#define word_add(at, by) __atomic_add_fetch((at), (by), __ATOMIC_ACQ_REL)
#define word_get(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
#define word_set(at, to) __atomic_store_n((at), (to), __ATOMIC_RELEASE)
#define word_swap(at, to) __atomic_exchange_n((at), (to), __ATOMIC_ACQ_REL)
#define count_add(at, by) __atomic_store_n((at), *(at) + (by), __ATOMIC_RELAXED) /* one writer */

typedef int (*verify_t)(int, void *);

/* OpenSSL's functions that the threads call: the one list of them.  Each is result, name,
   arguments; `openssl.pxd` declares them to Cython with the same words. */
#define OSSL_FUNCTIONS(F) \
    F(void *, BIO_new, (void *)) \
    F(void *, BIO_s_mem, (void)) \
    F(void *, BIO_new_mem_buf, (void *, int)) \
    F(long, BIO_set_mem_eof_return, (void *, int)) \
    F(long, BIO_get_mem_data, (void *, char **)) \
    F(int, BIO_read, (void *, void *, int)) \
    F(int, BIO_free, (void *)) \
    F(void, ERR_clear_error, (void)) \
    F(unsigned long, ERR_get_error, (void)) \
    F(unsigned long, ERR_peek_error, (void)) \
    F(int, SSL_get_shutdown, (const void *)) \
    F(void *, SSL_new, (void *)) \
    F(void *, SSL_set_SSL_CTX, (void *, void *)) \
    F(void, SSL_free, (void *)) \
    F(void, SSL_set_bio, (void *, void *, void *)) \
    F(void, SSL_set_verify, (void *, int, verify_t)) \
    F(void, SSL_set_accept_state, (void *)) \
    F(void, SSL_set_connect_state, (void *)) \
    F(void, SSL_set_tlsext_host_name, (void *, const char *)) \
    F(int, SSL_do_handshake, (void *)) \
    F(int, SSL_session_reused, (void *)) \
    F(int, SSL_shutdown, (void *)) \
    F(int, SSL_get_error, (void *, int)) \
    F(int, SSL_read, (void *, void *, int)) \
    F(int, SSL_write, (void *, const void *, int)) \
    F(const char *, SSL_get_version, (void *)) \
    F(const char *, SSL_get0_group_name, (void *)) \
    F(void *, SSL_get_current_cipher, (void *)) \
    F(const char *, SSL_CIPHER_get_name, (void *)) \
    F(void, X509_STORE_CTX_set_error, (void *, int)) \
    F(void *, SSL_get_peer_certificate, (void *)) \
    F(int, X509_set_pubkey, (void *, void *)) \
    F(void, X509_free, (void *))

#define FIELD(result, name, arguments) result(*name) arguments;
static struct { OSSL_FUNCTIONS(FIELD) } ossl;
#undef FIELD

static void *ossl_small_key; /* an EVP_PKEY that lives for ever */

/* A name and where its address goes: what `take_addresses` fills. */
#define PLACE(result, name, arguments) {#name, (void **)&ossl.name},
struct ossl_place { const char *name; void **place; };
static struct ossl_place ossl_places[] = { OSSL_FUNCTIONS(PLACE) };
#undef PLACE
enum { OSSL_PLACES = sizeof(ossl_places) / sizeof(ossl_places[0]) };

#endif
