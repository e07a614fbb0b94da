/* A crowd of TLS clients on the system's OpenSSL, one thread with epoll:

     flood handshakes PORT SOURCE FILE SLOTS COUNT RATE SECONDS
       COUNT handshakes, or as many as begin in SECONDS (0: no such limit), SLOTS at a time, RATE
       a second (0: as fast as it goes), each with the next certificate of FILE
     flood updates PORT SOURCE FILE COUNT
       one connection, which asks COUNT times for a KeyUpdate, or until the other side takes no
       more, and reads no answer; it stays open until a line comes on standard input

   They go to 127.0.0.1:PORT from the loopback address SOURCE, with TLS 1.3 and X25519.  FILE is
   PEM: a private key, its certificate and those that are sent with it, the next private key, and so
   on.  A client does all of its part, up to
   CertificateVerify and Finished, says close_notify, and hears the other side out: an alert, an
   orderly end, or none.  What became of all is one line of JSON.  Whatever else goes wrong ends
   the program. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, SILENCE_MS = 10000, MOST_SLOTS = 4096, ALERTS = 256 };
static const uint64_t SECOND = 1000000000;

struct client {
    int fd;
    SSL *ssl;
    int shaken; /* its part of the handshake is done */
};

static struct sockaddr_in target, source;
static SSL_CTX *context;
static struct identity {
    EVP_PKEY *key;
    X509 *certificate;
    STACK_OF(X509) *chain; /* what follows it */
} *identities;
static unsigned long identity_count, begun, running;
static unsigned long shaken, orderly, cut, refused[ALERTS];
static int poller;

static void die(const char *what)
{
    fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec;
}

static void add_key(EVP_PKEY *key)
{
    static unsigned long room = 0;
    if (key == NULL)
        die("a key that can't be read");
    if (identity_count == room) {
        room = room ? 2 * room : 1024;
        if ((identities = realloc(identities, room * sizeof *identities)) == NULL)
            die("memory");
    }
    identities[identity_count++] = (struct identity){key, NULL, sk_X509_new_null()};
}

static void add_certificate(X509 *certificate)
{
    struct identity *who = identities + identity_count - 1;
    if (certificate == NULL || identity_count == 0)
        die("a certificate that can't be read, or has no key before it");
    if (who->certificate == NULL)
        who->certificate = certificate;
    else if (!sk_X509_push(who->chain, certificate))
        die("memory");
}

static void load(const char *path)
{
    BIO *file = BIO_new_file(path, "r");
    unsigned char *data;
    char *name, *header;
    long size;
    if (file == NULL)
        die(path);
    while (PEM_read_bio(file, &name, &header, &data, &size)) {
        const unsigned char *at = data;
        if (strcmp(name, "CERTIFICATE") == 0)
            add_certificate(d2i_X509(NULL, &at, size));
        else
            add_key(d2i_AutoPrivateKey(NULL, &at, size));
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(data);
    }
    ERR_clear_error(); /* "no start line" is the file's end */
    BIO_free(file);
    if (identity_count == 0)
        die("no certificate");
}

static void prepare(void)
{
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set1_groups_list(context, "X25519") ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256"))
        die("context");
    /* who is judged here is the client */
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
}

static SSL *made(int fd)
{
    SSL *ssl = SSL_new(context);
    struct identity *who = &identities[begun % identity_count];
    if (ssl == NULL || !SSL_use_certificate(ssl, who->certificate) ||
        !SSL_use_PrivateKey(ssl, who->key) || !SSL_set1_chain(ssl, who->chain) ||
        !SSL_set_fd(ssl, fd))
        die("client");
    SSL_set_connect_state(ssl);
    return ssl;
}

/* `room`: bytes for what isn't read, before connect(2) promises more; 0: as ever */
static int dialling(int flags, int room)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (room && setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) != 0)
        die("SO_RCVBUF");
    if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0)
        die("bind");
    if (connect(fd, (struct sockaddr *)&target, sizeof target) != 0 && errno != EINPROGRESS)
        die("connect");
    return fd;
}

static void begin(struct client *to)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = to};
    to->fd = dialling(SOCK_NONBLOCK, 0);
    to->ssl = made(to->fd);
    to->shaken = 0;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, to->fd, &event) != 0)
        die("epoll_ctl");
    begun++;
    running++;
}

static void end(struct client *of)
{
    SSL_free(of->ssl);
    close(of->fd);
    of->ssl = NULL;
    running--;
}

/* Why a step of OpenSSL didn't succeed: 0 when it only wants more, else the client has ended. */
static int ended(struct client *who, int result)
{
    unsigned long error;
    int why = SSL_get_error(who->ssl, result);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return 0;
    error = ERR_peek_error();
    if (why == SSL_ERROR_ZERO_RETURN)
        orderly++;
    else if (ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) > SSL_AD_REASON_OFFSET &&
             ERR_GET_REASON(error) < SSL_AD_REASON_OFFSET + ALERTS)
        refused[ERR_GET_REASON(error) - SSL_AD_REASON_OFFSET]++;
    else if (why == SSL_ERROR_SYSCALL ||
             ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
        cut++;
    else
        die("TLS");
    ERR_clear_error();
    end(who);
    return 1;
}

static void proceed(struct client *who)
{
    char heard[4096];
    int result;
    if (!who->shaken) {
        if ((result = SSL_do_handshake(who->ssl)) != 1) {
            ended(who, result);
            return;
        }
        who->shaken = 1;
        shaken++;
        if (SSL_shutdown(who->ssl) < 0)
            ERR_clear_error(); /* the end is told by what is read */
    }
    do
        result = SSL_read(who->ssl, heard, sizeof heard);
    while (result > 0);
    ended(who, result);
}

static void report(uint64_t took)
{
    const char *comma = "";
    printf("{\"begun\": %lu, \"shaken\": %lu, \"orderly\": %lu, \"cut\": %lu, \"seconds\": %.6f, "
           "\"refused\": {", begun, shaken, orderly, cut, (double)took / 1e9);
    for (int alert = 0; alert < ALERTS; alert++)
        if (refused[alert]) {
            printf("%s\"%d\": %lu", comma, alert, refused[alert]);
            comma = ", ";
        }
    puts("}}");
}

static void handshakes(char **arguments)
{
    static struct client clients[MOST_SLOTS];
    struct epoll_event events[EVENTS];
    unsigned long slots = strtoul(arguments[0], NULL, 10), rate = strtoul(arguments[2], NULL, 10);
    unsigned long most = strtoul(arguments[1], NULL, 10);
    uint64_t start = now(), last = start;
    uint64_t until = (uint64_t)(strtod(arguments[3], NULL) * 1e9);
    if (slots < 1 || slots > MOST_SLOTS || (poller = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("slots");
    for (;;) {
        uint64_t at = now(), since = at - start;
        int more = (!most || begun < most) && (!until || since < until), ready, wait = SILENCE_MS;
        for (unsigned long i = 0; more && i < slots; i++) {
            if (rate && begun >= 1 + since * rate / SECOND) {
                wait = 1;
                break;
            }
            if (clients[i].ssl == NULL)
                begin(&clients[i]);
            more = !most || begun < most;
        }
        if (!more && !running)
            break;
        if ((ready = epoll_wait(poller, events, EVENTS, wait)) < 0 && errno != EINTR)
            die("epoll_wait");
        if (ready > 0)
            last = now();
        else if (running && now() - last > SILENCE_MS * (SECOND / 1000))
            die("silence");
        for (int i = 0; i < ready; i++)
            proceed(events[i].data.ptr);
    }
    report(now() - start);
}

static void updates(unsigned long count)
{
    char line[16];
    struct timeval patience = {.tv_sec = 2};
    int fd = dialling(0, 4096), stalled = 0;
    SSL *ssl = made(fd);
    unsigned long asked = 0;
    if (SSL_do_handshake(ssl) != 1)
        die("handshake");
    /* whoever doesn't read on is given two seconds to begin */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    while (asked < count && !stalled) {
        if (!SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED))
            die("key update");
        if (SSL_do_handshake(ssl) == 1)
            asked++;
        else if (SSL_get_error(ssl, -1) == SSL_ERROR_WANT_WRITE)
            stalled = 1;
        else
            die("key update");
    }
    printf("{\"asked\": %lu, \"stalled\": %s}\n", asked, stalled ? "true" : "false");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        die("standard input");
}

int main(int count, char **arguments)
{
    if (count < 6) {
        fputs("flood: handshakes | updates, and what the source says\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    target.sin_family = source.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)strtoul(arguments[2], NULL, 10));
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (inet_pton(AF_INET, arguments[3], &source.sin_addr) != 1)
        die("source");
    load(arguments[4]);
    prepare();
    if (strcmp(arguments[1], "handshakes") == 0 && count == 9)
        handshakes(arguments + 5);
    else if (strcmp(arguments[1], "updates") == 0 && count == 6)
        updates(strtoul(arguments[5], NULL, 10));
    else
        die("arguments");
    return 0;
}
