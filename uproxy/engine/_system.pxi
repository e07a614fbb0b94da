# The system's calls, and OpenSSL's through the addresses that the border hands over.

from libc.errno cimport EAGAIN, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINTR, ENOMEM, ENOTCONN, EPIPE, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, strncpy
from posix.unistd cimport close, read, write
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int, int)

cdef extern from "<sys/socket.h>" nogil:
    struct linger:
        int l_onoff
        int l_linger
    struct sockaddr_storage:
        unsigned short ss_family
    int AF_UNIX
    struct sockaddr:
        pass
    int getsockname(int, sockaddr *, unsigned int *)
    int getpeername(int, sockaddr *, unsigned int *)
    int MSG_NOSIGNAL, SHUT_WR, SOL_SOCKET, SO_ERROR, SO_LINGER
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    int shutdown(int, int)
    int getsockopt(int, int, int, void *, unsigned int *)
    int setsockopt(int, int, int, const void *, unsigned int)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_mutex_destroy(pthread_mutex_t *)

cdef extern from "machine.h" nogil:
    void *shaking_get()
    void shaking_set(void *)
    int word_add "word_add"(int *, int)
    int word_get "word_get"(int *)
    void word_set "word_set"(int *, int)
    int64_t count_get "word_get"(int64_t *)
    int64_t count_add "word_add"(int64_t *, int64_t)
    void count_set "word_set"(int64_t *, int64_t)

ctypedef int (*verify_t)(int, void *) noexcept nogil
ctypedef int (*request_t)(void *, void *) noexcept nogil
ctypedef void *(*pointer_of_pointer)(void *) noexcept nogil
ctypedef void *(*pointer_of_pointer_int)(void *, int) noexcept nogil
ctypedef int (*int_of_pointer)(void *) noexcept nogil
ctypedef int (*int_of_data)(void *, void *, int) noexcept nogil

cdef struct OpenSSL:
    pointer_of_pointer BIO_new
    void *(*BIO_s_mem)() noexcept nogil
    pointer_of_pointer_int BIO_new_mem_buf
    long (*BIO_set_mem_eof_return)(void *, int) noexcept nogil
    long (*BIO_get_mem_data)(void *, char **) noexcept nogil
    int_of_data BIO_read
    int_of_pointer BIO_free
    void (*ERR_clear_error)() noexcept nogil
    unsigned long (*ERR_get_error)() noexcept nogil
    pointer_of_pointer SSL_new
    void (*SSL_free)(void *) noexcept nogil
    void (*SSL_set_bio)(void *, void *, void *) noexcept nogil
    void (*SSL_set_verify)(void *, int, verify_t) noexcept nogil
    void (*SSL_set_cert_cb)(void *, request_t, void *) noexcept nogil
    void (*SSL_set_accept_state)(void *) noexcept nogil
    void (*SSL_set_connect_state)(void *) noexcept nogil
    int_of_pointer SSL_do_handshake
    int_of_pointer SSL_session_reused
    int_of_pointer SSL_shutdown
    int (*SSL_get_error)(void *, int) noexcept nogil
    int_of_data SSL_read
    int_of_data SSL_write
    char *(*SSL_get_version)(void *) noexcept nogil
    char *(*SSL_get0_group_name)(void *) noexcept nogil
    pointer_of_pointer SSL_get_current_cipher
    char *(*SSL_CIPHER_get_name)(void *) noexcept nogil
    int (*SSL_get_ex_data_X509_STORE_CTX_idx)() noexcept nogil
    pointer_of_pointer_int X509_STORE_CTX_get_ex_data
    pointer_of_pointer X509_STORE_CTX_get0_cert
    void (*X509_STORE_CTX_set_error)(void *, int) noexcept nogil
    int (*i2d_X509_bio)(void *, void *) noexcept nogil

cdef OpenSSL ossl

cdef enum:
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_ZERO_RETURN = 6
    SSL_VERIFY_PEER_AND_INSIST = 3  # SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT


cdef int take_addresses(dict addresses) except -1:
    """Fill the table; a KeyError names a function that the border forgot."""
    ossl.BIO_new = <pointer_of_pointer><uintptr_t>addresses["BIO_new"]
    ossl.BIO_s_mem = <void *(*)() noexcept nogil><uintptr_t>addresses["BIO_s_mem"]
    ossl.BIO_new_mem_buf = <pointer_of_pointer_int><uintptr_t>addresses["BIO_new_mem_buf"]
    ossl.BIO_set_mem_eof_return = (
        <long (*)(void *, int) noexcept nogil><uintptr_t>addresses["BIO_set_mem_eof_return"])
    ossl.BIO_get_mem_data = (
        <long (*)(void *, char **) noexcept nogil><uintptr_t>addresses["BIO_get_mem_data"])
    ossl.BIO_read = <int_of_data><uintptr_t>addresses["BIO_read"]
    ossl.BIO_free = <int_of_pointer><uintptr_t>addresses["BIO_free"]
    ossl.ERR_clear_error = <void (*)() noexcept nogil><uintptr_t>addresses["ERR_clear_error"]
    ossl.ERR_get_error = <unsigned long (*)() noexcept nogil><uintptr_t>addresses["ERR_get_error"]
    ossl.SSL_new = <pointer_of_pointer><uintptr_t>addresses["SSL_new"]
    ossl.SSL_free = <void (*)(void *) noexcept nogil><uintptr_t>addresses["SSL_free"]
    ossl.SSL_set_bio = (
        <void (*)(void *, void *, void *) noexcept nogil><uintptr_t>addresses["SSL_set_bio"])
    ossl.SSL_set_verify = (
        <void (*)(void *, int, verify_t) noexcept nogil><uintptr_t>addresses["SSL_set_verify"])
    ossl.SSL_set_cert_cb = (
        <void (*)(void *, request_t, void *) noexcept nogil><uintptr_t>addresses["SSL_set_cert_cb"])
    ossl.SSL_set_accept_state = (
        <void (*)(void *) noexcept nogil><uintptr_t>addresses["SSL_set_accept_state"])
    ossl.SSL_set_connect_state = (
        <void (*)(void *) noexcept nogil><uintptr_t>addresses["SSL_set_connect_state"])
    ossl.SSL_do_handshake = <int_of_pointer><uintptr_t>addresses["SSL_do_handshake"]
    ossl.SSL_session_reused = <int_of_pointer><uintptr_t>addresses["SSL_session_reused"]
    ossl.SSL_shutdown = <int_of_pointer><uintptr_t>addresses["SSL_shutdown"]
    ossl.SSL_get_error = (
        <int (*)(void *, int) noexcept nogil><uintptr_t>addresses["SSL_get_error"])
    ossl.SSL_read = <int_of_data><uintptr_t>addresses["SSL_read"]
    ossl.SSL_write = <int_of_data><uintptr_t>addresses["SSL_write"]
    ossl.SSL_get_version = <char *(*)(void *) noexcept nogil><uintptr_t>addresses["SSL_get_version"]
    ossl.SSL_get0_group_name = (
        <char *(*)(void *) noexcept nogil><uintptr_t>addresses["SSL_get0_group_name"])
    ossl.SSL_get_current_cipher = (
        <pointer_of_pointer><uintptr_t>addresses["SSL_get_current_cipher"])
    ossl.SSL_CIPHER_get_name = (
        <char *(*)(void *) noexcept nogil><uintptr_t>addresses["SSL_CIPHER_get_name"])
    ossl.SSL_get_ex_data_X509_STORE_CTX_idx = (
        <int (*)() noexcept nogil><uintptr_t>addresses["SSL_get_ex_data_X509_STORE_CTX_idx"])
    ossl.X509_STORE_CTX_get_ex_data = (
        <pointer_of_pointer_int><uintptr_t>addresses["X509_STORE_CTX_get_ex_data"])
    ossl.X509_STORE_CTX_get0_cert = (
        <pointer_of_pointer><uintptr_t>addresses["X509_STORE_CTX_get0_cert"])
    ossl.X509_STORE_CTX_set_error = (
        <void (*)(void *, int) noexcept nogil><uintptr_t>addresses["X509_STORE_CTX_set_error"])
    ossl.i2d_X509_bio = <int (*)(void *, void *) noexcept nogil><uintptr_t>addresses["i2d_X509_bio"]
    return 0


cdef double clock_of(int which) noexcept nogil:
    cdef timespec now
    clock_gettime(which, &now)
    return now.tv_sec + now.tv_nsec * 1e-9
