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
#define STRANGERS_FOR 1000 /* milliseconds after a leaf had to be judged, in which others may */
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

static struct {
    void *(*BIO_new)(void *);
    void *(*BIO_s_mem)(void);
    void *(*BIO_new_mem_buf)(void *, int);
    long (*BIO_set_mem_eof_return)(void *, int);
    long (*BIO_get_mem_data)(void *, char **);
    int (*BIO_read)(void *, void *, int);
    int (*BIO_free)(void *);
    void (*ERR_clear_error)(void);
    unsigned long (*ERR_get_error)(void);
    unsigned long (*ERR_peek_error)(void);
    int (*SSL_get_shutdown)(const void *);
    void *(*SSL_new)(void *);
    void (*SSL_free)(void *);
    void (*SSL_set_bio)(void *, void *, void *);
    void (*SSL_set_verify)(void *, int, int (*)(int, void *));
    void (*SSL_set_cert_cb)(void *, int (*)(void *, void *), void *);
    void (*SSL_set_accept_state)(void *);
    void (*SSL_set_connect_state)(void *);
    int (*SSL_do_handshake)(void *);
    int (*SSL_session_reused)(void *);
    int (*SSL_shutdown)(void *);
    int (*SSL_get_error)(void *, int);
    int (*SSL_read)(void *, void *, int);
    int (*SSL_write)(void *, const void *, int);
    const char *(*SSL_get_version)(void *);
    const char *(*SSL_get0_group_name)(void *);
    void *(*SSL_get_current_cipher)(void *);
    const char *(*SSL_CIPHER_get_name)(void *);
    void *(*X509_STORE_CTX_get0_cert)(void *);
    void (*X509_STORE_CTX_set_error)(void *, int);
    int (*i2d_X509_bio)(void *, void *);
    void *(*SSL_get_peer_certificate)(void *);
    int (*X509_set_pubkey)(void *, void *);
    void (*X509_free)(void *);
} ossl;

static void *ossl_small_key; /* an EVP_PKEY that lives for ever */

/* A name and where its address goes: what `take_addresses` fills. */
#define PLACE(name) {#name, (void **)&ossl.name}
struct ossl_place { const char *name; void **place; };
static struct ossl_place ossl_places[] = {
    PLACE(BIO_new), PLACE(BIO_s_mem), PLACE(BIO_new_mem_buf), PLACE(BIO_set_mem_eof_return),
    PLACE(BIO_get_mem_data), PLACE(BIO_read), PLACE(BIO_free), PLACE(ERR_clear_error),
    PLACE(ERR_get_error), PLACE(ERR_peek_error), PLACE(SSL_get_shutdown),
    PLACE(SSL_new), PLACE(SSL_free), PLACE(SSL_set_bio),
    PLACE(SSL_set_verify), PLACE(SSL_set_cert_cb), PLACE(SSL_set_accept_state),
    PLACE(SSL_set_connect_state), PLACE(SSL_do_handshake), PLACE(SSL_session_reused),
    PLACE(SSL_shutdown), PLACE(SSL_get_error), PLACE(SSL_read), PLACE(SSL_write),
    PLACE(SSL_get_version), PLACE(SSL_get0_group_name), PLACE(SSL_get_current_cipher),
    PLACE(SSL_CIPHER_get_name), PLACE(X509_STORE_CTX_get0_cert),
    PLACE(X509_STORE_CTX_set_error), PLACE(i2d_X509_bio),
    PLACE(SSL_get_peer_certificate), PLACE(X509_set_pubkey), PLACE(X509_free),
};
#undef PLACE
enum { OSSL_PLACES = sizeof(ossl_places) / sizeof(ossl_places[0]) };

#endif
