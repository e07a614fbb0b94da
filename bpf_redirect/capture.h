/*
 * What the programs and the loader (uproxy/capture/layout.py) must agree about: actions, flags,
 * counters, and the keys and values of the maps.  tests/test_capture_layout.py compares both.
 *
 * Addresses are 16 bytes in network order; IPv4 is ::ffff:a.b.c.d.  Everything else is in the
 * machine's order.
 */
#ifndef UPROXY_CAPTURE_H
#define UPROXY_CAPTURE_H

#include <linux/types.h>

#define CAPTURE_ABI 1

/* what becomes of a connection */
enum capture_action {
	CAPTURE,
	BYPASS,
};

/* bits of capture_config.flags */
enum capture_flag {
	FAIL_OPEN = 1,          /* without the proxy's listener: let it pass instead of refusing it */
	ADDRESSES_INCLUDED = 2, /* an address without a rule is bypassed */
	PORTS_INCLUDED = 4,     /* a port without a rule is bypassed */
	INBOUND = 8,            /* inbound ports with a rule CAPTURE are captured */
	INBOUND_ALL = 16,       /* inbound ports without a rule are captured too */
};

/* first half of a key in `ports` */
enum capture_direction {
	DIRECTION_OUTBOUND,
	DIRECTION_INBOUND,
};

/* keys of `listeners` */
enum capture_listener {
	LISTENER_OUTBOUND,
	LISTENER_INBOUND,
	LISTENERS,
};

/* keys of `stats` */
enum capture_stat {
	STAT_CAPTURED,         /* outbound connections marked for the proxy */
	STAT_BYPASSED,         /* outbound connections that a rule, or fail-open, lets pass */
	STAT_NO_LISTENER,      /* outbound connections refused because the proxy isn't listening */
	STAT_FOREIGN_NETNS,    /* outbound connections refused in another network namespace */
	STAT_BOUND_DEVICE,     /* outbound connections refused because of SO_BINDTODEVICE */
	STAT_INBOUND,          /* inbound segments given to the proxy's listener */
	STAT_INBOUND_REFUSED,  /* inbound segments refused because the proxy isn't listening */
	STAT_LEAKS_STOPPED,    /* marked packets dropped on their way out of the namespace */
	STAT_HANDED_OVER,      /* writes of the workload given to the proxy's socket at once */
	STAT_LEFT_TO_TCP,      /* writes of short-circuited connections that went through TCP */
	STATS,
};

/* the one value of `config` */
struct capture_config {
	__u32 abi;            /* CAPTURE_ABI */
	__u32 enabled;        /* 0: every program lets everything pass */
	__u32 mark;           /* of captured sockets; the policy route takes it to loopback */
	__u32 flags;          /* of capture_flag */
	__u16 outbound_port;  /* at which the proxy listens for captured outbound connections */
	__u16 inbound_port;   /* at which it listens for captured inbound ones */
	__u32 unused;
	__u64 netns_cookie;   /* of the captured network namespace; 0: unknown, not checked */
	__u64 proxy_cgroup;   /* whose processes' connections are never captured; 0: none */
};

/* the key of `addresses` and `own` (BPF_MAP_TYPE_LPM_TRIE) */
struct capture_prefix {
	__u32 length; /* in bits: 96 + the IPv4 prefix's */
	__u32 address[4];
};

/* the key of `ports` */
struct capture_port {
	__u16 direction; /* of capture_direction */
	__u16 port;
};

/* the one value of `kernel`: at how many bytes the running kernel has what the program reads */
struct capture_kernel {
	__u32 enabled;    /* 0: every write goes through TCP */
	__u32 chosen;     /* struct sk_msg: sk_redir */
	__u32 receiving;  /* struct sock: sk_backlog, which begins with rmem_alloc */
	__u32 most;       /* struct sock: sk_rcvbuf */
	__u32 layered;    /* struct inet_connection_sock: icsk_ulp_ops */
	__u32 read;       /* struct tcp_sock: copied_seq */
	__u32 written;    /* struct tcp_sock: write_seq */
};

/* the key of `senders` and `receivers`: a connection as the socket itself sees it */
struct capture_pair {
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
};

#endif
