/*
 * Brings a workload's TCP connections to its uProxy and rewrites no address.
 *
 *   connect4, connect6  on the workload's cgroup: decide, and mark the socket.  A policy route
 *                       takes what is marked to loopback.
 *   lookup              on the network namespace: gives what arrives there to the proxy's
 *                       listener, and inbound connections to its other one.
 *   listen              on the proxy's cgroup: registers its listeners each time it starts.
 *   disown              on the workload's cgroup: its own listeners aren't the proxy's, where the
 *                       proxy's cgroup is above both.
 *   guard               on the workload's cgroup: nothing marked leaves but by loopback.
 *
 * The contract is in README.md.  Only contexts of the kernel's stable interface are used, no BTF,
 * subprogram or global data, so that loading takes nothing but relocating the maps.  A program
 * that uses something of a newer kernel comes a second time, as /old, without it.
 */
#include <linux/errno.h>
#include "common.h"

#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define SOL_SOCKET 1
#define SO_MARK 36
#define LOOPBACK 1 /* the index of lo in every network namespace */

#define REFUSE 0

/* in bpf_sock_ops.reply, which nobody else reads at a listen() and the next program sees */
#define NOT_THE_PROXY 0x75700001

MAP(addresses, BPF_MAP_TYPE_LPM_TRIE, struct capture_prefix, __u32, 16384, BPF_F_NO_PREALLOC);
MAP(ports, BPF_MAP_TYPE_HASH, struct capture_port, __u32, 16384, BPF_F_NO_PREALLOC);
MAP(listeners, BPF_MAP_TYPE_SOCKMAP, __u32, __u64, LISTENERS, 0);

INLINE int is_ipv4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == MAPPED;
}

/* Loopback, and the wildcard address, which connect() takes for loopback. */
INLINE int is_loopback(const struct address *a)
{
	if (is_ipv4(a))
		return (a->word[3] & to_net32(0xff000000)) == to_net32(0x7f000000) || !a->word[3];
	return !a->word[0] && !a->word[1] && !a->word[2] && (!a->word[3] || a->word[3] == to_net32(1));
}

INLINE int is_same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* Link-local IPv6 addresses mean nothing without an interface, which no context has. */
INLINE int is_link_local(const struct address *a)
{
	return (a->word[0] & to_net32(0xffc00000)) == to_net32(0xfe800000);
}

INLINE int is_own(const struct address *a)
{
	return is_loopback(a) || is_link_local(a) || find_prefix(&own, a->word) != 0;
}

/* Whether a segment comes from here.  A link-local source is here only if it is an own address:
 * every neighbor on the link has one. */
INLINE int is_from_here(const struct address *remote)
{
	return is_loopback(remote) || find_prefix(&own, remote->word) != 0;
}

INLINE __u32 *find_port(__u16 direction, __u16 port)
{
	struct capture_port key = { direction, port };

	return bpf_map_lookup_elem(&ports, &key);
}

INLINE __u32 action_or(const __u32 *found, int otherwise_bypass)
{
	return found ? *found : otherwise_bypass ? BYPASS : CAPTURE;
}

INLINE int is_captured(const struct capture_config *c, const struct address *to, __u16 port)
{
	if (is_own(to))
		return 0;
	return action_or(find_prefix(&addresses, to->word), c->flags & ADDRESSES_INCLUDED) == CAPTURE &&
	       action_or(find_port(DIRECTION_OUTBOUND, port), c->flags & PORTS_INCLUDED) == CAPTURE;
}

INLINE int has_listener(__u32 which)
{
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &which);

	if (!listener)
		return 0;
	bpf_sk_release(listener);
	return 1;
}

/* --- outbound: the workload calls connect() --- */

INLINE int refuse(int is_new, __u32 why)
{
	count(why);
	if (is_new)
		bpf_set_retval(-ECONNREFUSED); /* else connect() gives EPERM */
	return REFUSE;
}

INLINE int mark(struct bpf_sock_addr *ctx, __u32 value)
{
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &value, sizeof(value)) == 0;
}

/* A socket that was captured before and connects again, elsewhere, loses the mark. */
INLINE int bypass(struct bpf_sock_addr *ctx, const struct capture_config *c)
{
	count(STAT_BYPASSED);
	if (ctx->sk && ctx->sk->mark == c->mark && !mark(ctx, 0))
		return REFUSE;
	return PASS;
}

INLINE int on_connect(struct bpf_sock_addr *ctx, const struct address *to, int is_new)
{
	struct capture_config *c = get_enabled_config();

	if (!c || ctx->type != SOCK_STREAM)
		return PASS;
	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_MPTCP)
		return PASS;
	if (c->proxy_cgroup && bpf_get_current_cgroup_id() == c->proxy_cgroup)
		return PASS;
	if (!is_captured(c, to, to_host16(ctx->user_port)))
		return bypass(ctx, c);
	if (c->netns_cookie && bpf_get_netns_cookie(ctx) != c->netns_cookie)
		return refuse(is_new, STAT_FOREIGN_NETNS);
	/* a reset from an address that isn't ours can't be sent: without this it would hang */
	if (!has_listener(LISTENER_OUTBOUND))
		return c->flags & FAIL_OPEN ? bypass(ctx, c) : refuse(is_new, STAT_NO_LISTENER);
	if (!ctx->sk || ctx->sk->bound_dev_if)
		return refuse(is_new, STAT_BOUND_DEVICE);
	if (!mark(ctx, c->mark))
		return REFUSE;
	count(STAT_CAPTURED);
	return PASS;
}

INLINE int on_connect4(struct bpf_sock_addr *ctx, int is_new)
{
	struct address to = { { 0, 0, MAPPED, ctx->user_ip4 } };

	return on_connect(ctx, &to, is_new);
}

INLINE int on_connect6(struct bpf_sock_addr *ctx, int is_new)
{
	struct address to = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				ctx->user_ip6[3] } };

	return on_connect(ctx, &to, is_new);
}

SECTION("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect4(ctx, 1);
}

SECTION("cgroup/connect4/old") int connect4_old(struct bpf_sock_addr *ctx)
{
	return on_connect4(ctx, 0);
}

SECTION("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect6(ctx, 1);
}

SECTION("cgroup/connect6/old") int connect6_old(struct bpf_sock_addr *ctx)
{
	return on_connect6(ctx, 0);
}

/* --- both directions: a segment arrives for which no connection exists --- */

INLINE int steer(struct bpf_sk_lookup *ctx, __u32 which)
{
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &which);
	long failed;

	if (!listener)
		return SK_DROP;
	failed = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	return failed ? SK_DROP : SK_PASS;
}

INLINE int is_inbound_captured(const struct capture_config *c, __u16 port)
{
	if (!(c->flags & (INBOUND | INBOUND_ALL)) || port == c->inbound_port)
		return 0;
	return action_or(find_port(DIRECTION_INBOUND, port), !(c->flags & INBOUND_ALL)) == CAPTURE;
}

INLINE int on_inbound(struct bpf_sk_lookup *ctx, const struct capture_config *c)
{
	if (!is_inbound_captured(c, ctx->local_port))
		return SK_PASS;
	if (!has_listener(LISTENER_INBOUND)) {
		if (c->flags & FAIL_OPEN)
			return SK_PASS;
		/* falling through would reach the application in plaintext */
		count(STAT_INBOUND_REFUSED);
		return SK_DROP;
	}
	count(STAT_INBOUND);
	return steer(ctx, LISTENER_INBOUND);
}

INLINE void get_addresses(struct bpf_sk_lookup *ctx, struct address *local, struct address *remote)
{
	/* both families are read on every way: clang would join two ways into one read with a
	 * computed offset, which the verifier refuses */
	__u32 local4 = ctx->local_ip4, remote4 = ctx->remote_ip4;
	struct address local6 = { { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
				    ctx->local_ip6[3] } };
	struct address remote6 = { { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
				     ctx->remote_ip6[3] } };

	asm volatile("" ::: "memory");
	if (ctx->family == AF_INET) {
		*local = (struct address){ { 0, 0, MAPPED, local4 } };
		*remote = (struct address){ { 0, 0, MAPPED, remote4 } };
	} else {
		*local = local6;
		*remote = remote6;
	}
}

INLINE int on_lookup(struct bpf_sk_lookup *ctx, int is_new)
{
	struct capture_config *c = get_enabled_config();
	struct address local, remote;

	if (!c || ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	get_addresses(ctx, &local, &remote);
	if (is_new && ctx->ingress_ifindex == LOOPBACK)
		/* an own address: from the proxy, bound to lo and to its client's address */
		return is_own(&local) ? SK_PASS : steer(ctx, LISTENER_OUTBOUND);
	if (!is_new && !is_own(&local) && is_from_here(&remote))
		return steer(ctx, LISTENER_OUTBOUND);
	/* From here to here, of which the kernel says that it came in by the address's device.  An
	 * address too new to be in `own` is its own neighbor; what comes to it from elsewhere is
	 * inbound, so that being late with the list opens nothing. */
	if (is_from_here(&remote) || is_same(&local, &remote))
		return SK_PASS;
	return on_inbound(ctx, c);
}

SECTION("sk_lookup") int lookup(struct bpf_sk_lookup *ctx)
{
	return on_lookup(ctx, 1);
}

SECTION("sk_lookup/old") int lookup_old(struct bpf_sk_lookup *ctx)
{
	return on_lookup(ctx, 0);
}

/* --- the proxy calls listen(): registered also before capturing is enabled --- */

INLINE int on_listen(struct bpf_sock_ops *ctx, int is_new)
{
	struct capture_config *c;
	__u32 which;

	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB || !(c = get_config()))
		return PASS;
	if (ctx->reply == NOT_THE_PROXY)
		return PASS;
	if (is_new && c->netns_cookie && bpf_get_netns_cookie(ctx) != c->netns_cookie)
		return PASS;
	if (ctx->local_port == c->outbound_port)
		which = LISTENER_OUTBOUND;
	else if (ctx->local_port == c->inbound_port)
		which = LISTENER_INBOUND;
	else
		return PASS;
	bpf_sock_map_update(ctx, &listeners, &which, BPF_ANY);
	return PASS;
}

SECTION("sockops") int listen(struct bpf_sock_ops *ctx)
{
	return on_listen(ctx, 1);
}

SECTION("sockops/old") int listen_old(struct bpf_sock_ops *ctx)
{
	return on_listen(ctx, 0);
}

/* The kernel runs the programs of a cgroup before those of the ones above it: so this one is before
 * `listen` of a cgroup that has both workload and proxy, and behind that of a proxy inside. */
SECTION("sockops/disown") int disown(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		ctx->reply = NOT_THE_PROXY;
	return PASS;
}

/* --- nothing marked leaves the namespace, whoever removed the route --- */

SECTION("cgroup_skb/egress") int guard(struct __sk_buff *skb)
{
	struct capture_config *c = get_enabled_config();

	if (!c || skb->mark != c->mark || skb->ifindex == LOOPBACK)
		return PASS;
	count(STAT_LEAKS_STOPPED);
	return REFUSE;
}

char _license[] SECTION("license") = "Dual BSD/GPL";
char _compiler[] SECTION("compiler") = "clang " __clang_version__;
