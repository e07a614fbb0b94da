"""System calls, and the parts of C that Cython can't say (machine.h)."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from posix.time cimport clock_gettime, timespec


cdef extern from *:
    ctypedef bint flag "_Bool"  # a byte in which C keeps nothing but 0 and 1

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLEXCLUSIVE
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
    struct sockaddr:
        pass
    struct sockaddr_storage:
        uint16_t ss_family
    int AF_UNIX, AF_INET, AF_INET6
    int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    int MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, SHUT_WR
    int SOL_SOCKET, SO_DOMAIN, SO_ERROR, SO_LINGER, SO_MARK
    int socket(int, int, int)
    int connect(int, const sockaddr *, unsigned int)
    int accept4(int, sockaddr *, unsigned int *, int)
    int getsockname(int, sockaddr *, unsigned int *)
    int getpeername(int, sockaddr *, unsigned int *)
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    int shutdown(int, int)
    int getsockopt(int, int, int, void *, unsigned int *)
    int setsockopt(int, int, int, const void *, unsigned int)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int, unsigned long, ...)

cdef extern from "<linux/sockios.h>" nogil:
    int SIOCOUTQ

cdef extern from "<netinet/in.h>" nogil:
    int SOL_IP, IPPROTO_IPV6
    struct in_addr:
        pass
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    ctypedef struct pthread_cond_t:
        pass
    int pthread_cond_init(pthread_cond_t *, void *)
    int pthread_cond_signal(pthread_cond_t *)
    int pthread_cond_broadcast(pthread_cond_t *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_timedwait(pthread_cond_t *, pthread_mutex_t *, const timespec *)
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_detach(pthread_t)

cdef extern from "<sys/prctl.h>":
    int control_process "prctl"(int, ...)

cdef extern from "<errno.h>" nogil:
    int ENONET, EPROTO, ENOPROTOOPT, EHOSTDOWN, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, ENETDOWN

cdef extern from "machine.h" nogil:
    uint32_t READ_EVENTS
    double REPORT_DELAY_S, LARGE_BATCH_DELAY_S, LINGER_S, VERDICT_LIFE_S, TRIM_AFTER_S
    double SHRINK_AFTER_S, SILENT_TUNNEL_S, PROVE_TUNNEL_S, DRAIN_TUNNEL_S, CLOSE_TUNNEL_S
    double CHECK_EXPIRY_S, END_DELAY_ANSWERED_S
    int SO_ORIGINAL_DST
    uint32_t CAPTURE_MARK
    int OFFLOAD_FOR_MS, HELPER_IDLE_S
    void *handshaking_get()
    void handshaking_set(void *)
    int word_add(int *, int)
    int word_get(int *)
    void word_set(int *, int)
    int word_swap(int *, int)
    bint word_swap_if(int *, int, int)
    unsigned int *allowed_moves
    void check_move(int, int)
    int64_t long_get "word_get"(int64_t *)
    void long_set "word_set"(int64_t *, int64_t)
    void *pointer_get "word_get"(void **)
    void pointer_set "word_set"(void **, void *)
    void count_add(int64_t *, int64_t)


cdef inline double clock_of(int which) noexcept nogil:
    """Return the seconds that a clock shows."""
    cdef timespec now
    clock_gettime(which, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef inline timespec deadline_of(int which, int seconds) noexcept nogil:
    """Return the time that a clock shows in so many seconds."""
    cdef timespec until
    clock_gettime(which, &until)
    until.tv_sec += seconds
    return until
