/* What Cython can't say: a variable per thread, atomic words, and a table of functions that
   is filled once, before any thread runs. */
#ifndef UPROXY_MACHINE_H
#define UPROXY_MACHINE_H

#include <sys/epoll.h>

#include <stddef.h>
#include <stdint.h>

#define READ_EVENTS (EPOLLIN | EPOLLRDHUP)
#define REPORT_DELAY_S 0.01 /* batching delay of reports that ask nothing */
#define LARGE_BATCH_DELAY_S 0.1 /* the same after a batch of LARGE_BATCH */
#define LINGER_S 1.0 /* for a refused caller to read its alert */
#define VERDICT_LIFE_S 60.0 /* for which the verifier's answer is reused at most */
#define OFFLOAD_FOR_MS 1000 /* after an uncached caller, in which handshakes are offloaded */
#define HELPER_IDLE_S 10 /* without a step, after which a helper ends */
#define TRIM_AFTER_S 1.0 /* of relaying, after which handshake memory is freed */
#define SHRINK_AFTER_S 0.25 /* between two looks for large output buffers */
#define SILENT_TUNNEL_S 10.0 /* after which a PING comes before the next stream: as ztunnel, Istio */
#define PROVE_TUNNEL_S 2.0 /* for the answer to that PING */
#define DRAIN_TUNNEL_S 1.0 /* between the GOAWAY that announces the end and the one that means it */
#define SO_ORIGINAL_DST 80 /* of linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST is the same */
#define CAPTURE_MARK 0x7570 /* as originals.CAPTURE_MARK */
#define CHECK_EXPIRY_S 60.0 /* between two looks at the wall clock, which may jump */
#define END_DELAY_ANSWERED_S 1.0 /* for which our END_STREAM waits for an L7 proxy's that answers */
#define CLOSE_TUNNEL_S 5.0 /* for a peer to take the last bytes of a tunnel */

static __thread void *uproxy_handshaking; /* the channel inside SSL_do_handshake on this thread */

static inline void *handshaking_get(void) { return uproxy_handshaking; }
static inline void handshaking_set(void *channel) { uproxy_handshaking = channel; }

#define word_add(at, by) __atomic_add_fetch((at), (by), __ATOMIC_ACQ_REL)
#define word_get(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
#define word_set(at, to) __atomic_store_n((at), (to), __ATOMIC_RELEASE)
#define word_swap(at, to) __atomic_exchange_n((at), (to), __ATOMIC_ACQ_REL)
#define count_add(at, by) __atomic_store_n((at), *(at) + (by), __ATOMIC_RELAXED) /* one writer */

static inline int word_swap_if(int *at, int now, int to) /* 1 if it was `now` */
{
    return __atomic_compare_exchange_n(at, &now, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* lifecycle.MOVES, filled at import: bit `to` of word `from` */
static unsigned int allowed_moves[32];

#ifdef UPROXY_CHECK_MOVES
#include <stdio.h>
#include <stdlib.h>
static inline void check_move(int from, int to)
{
    if (allowed_moves[from] & 1u << to)
        return;
    fprintf(stderr, "a connection can't go from state %d to %d\n", from, to);
    abort();
}
#else
#define check_move(from, to) ((void)(from), (void)(to))
#endif

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
    F(int, X509_set_subject_name, (void *, void *)) \
    F(int, X509_set_issuer_name, (void *, void *)) \
    F(void, X509_free, (void *))

#define FIELD(result, name, arguments) result(*name) arguments;
static struct { OSSL_FUNCTIONS(FIELD) } ossl;
#undef FIELD

static void *ossl_small_key; /* an EVP_PKEY that lives for ever */
static void *ossl_empty_name; /* an X509_NAME that does */

/* A name and where its address goes: what `take_addresses` fills. */
#define ENTRY(result, name, arguments) {#name, (void **)&ossl.name},
struct openssl_function { const char *name; void **place; };
static struct openssl_function openssl_functions[] = { OSSL_FUNCTIONS(ENTRY) };
#undef ENTRY
enum { OPENSSL_FUNCTION_COUNT = sizeof(openssl_functions) / sizeof(openssl_functions[0]) };

#endif
