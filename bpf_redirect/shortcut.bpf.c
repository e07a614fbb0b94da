/*
 * Lets what a captured workload writes skip TCP on its way to the proxy on the same machine.
 *
 *   meet   on the workload's and on the proxy's cgroup: notes both ends of a captured outbound
 *          connection.
 *   carry  on the workload's ends: gives each write to the proxy's end at once, or leaves it to TCP.
 *
 * Only this direction: what the workload receives comes through TCP, so that nothing of recv(2),
 * splice(2) or ioctl(2) is different for it.
 *
 * The kernel lets the receiver read what was handed over before what came through TCP.  So a write
 * may be left to TCP at any time, but may be handed over only when the receiver has read
 * everything that was left to TCP.  Nobody makes a writer wait for what is handed over, so that is
 * done only as long as the receiver keeps up; TCP makes it wait otherwise.
 */
#include "common.h"

#define ESTABLISHED 1 /* as enum tcp_state in linux/tcp.h */
#define CLOSE_WAIT 8
#define CONNECTIONS 65536
#define OF_ONE_SIZE 16 /* writes that may wait: each takes more memory than its bytes */

MAP(kernel, BPF_MAP_TYPE_ARRAY, __u32, struct capture_kernel, 1, 0);
MAP(senders, BPF_MAP_TYPE_SOCKHASH, struct capture_pair, __u64, CONNECTIONS, 0);
MAP(receivers, BPF_MAP_TYPE_SOCKHASH, struct capture_pair, __u64, CONNECTIONS, 0);

/* --- a captured connection is made: on both ends the mark says so, and that it goes elsewhere --- */

/* A proxy that reaches the application from its client's address marks that connection too. */
INLINE int goes_elsewhere(const __u32 *to)
{
	return !find_prefix(&own, to);
}

INLINE void get_pair(struct bpf_sock_ops *ctx, struct capture_pair *pair)
{
	__u32 local4 = ctx->local_ip4, remote4 = ctx->remote_ip4;
	struct address local6 = { { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2],
				    ctx->local_ip6[3] } };
	struct address remote6 = { { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2],
				     ctx->remote_ip6[3] } };

	asm volatile("" ::: "memory"); /* as in capture.bpf.c */
	if (ctx->family == AF_INET) {
		local6 = (struct address){ { 0, 0, MAPPED, local4 } };
		remote6 = (struct address){ { 0, 0, MAPPED, remote4 } };
	}
	__builtin_memcpy(pair->local, &local6, sizeof(local6));
	__builtin_memcpy(pair->remote, &remote6, sizeof(remote6));
	pair->local_port = ctx->local_port;
	pair->remote_port = to_net32(ctx->remote_port);
}

SECTION("sockops") int meet(struct bpf_sock_ops *ctx)
{
	struct capture_config *c = get_enabled_config();
	struct capture_pair pair = {};

	if (!c || !ctx->sk || ctx->sk->mark != c->mark)
		return PASS;
	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		get_pair(ctx, &pair);
		if (goes_elsewhere(pair.remote))
			bpf_sock_hash_update(ctx, &senders, &pair, BPF_ANY);
	} else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		get_pair(ctx, &pair);
		if (goes_elsewhere(pair.local))
			bpf_sock_hash_update(ctx, &receivers, &pair, BPF_ANY);
	}
	return PASS;
}

/* --- the workload writes --- */

INLINE void get_pairs(struct sk_msg_md *msg, struct capture_pair *own, struct capture_pair *other)
{
	__u32 local4 = msg->local_ip4, remote4 = msg->remote_ip4;
	struct address local6 = { { msg->local_ip6[0], msg->local_ip6[1], msg->local_ip6[2],
				    msg->local_ip6[3] } };
	struct address remote6 = { { msg->remote_ip6[0], msg->remote_ip6[1], msg->remote_ip6[2],
				     msg->remote_ip6[3] } };

	asm volatile("" ::: "memory"); /* as in capture.bpf.c */
	if (msg->family == AF_INET) {
		local6 = (struct address){ { 0, 0, MAPPED, local4 } };
		remote6 = (struct address){ { 0, 0, MAPPED, remote4 } };
	}
	__builtin_memcpy(own->local, &local6, sizeof(local6));
	__builtin_memcpy(own->remote, &remote6, sizeof(remote6));
	own->local_port = msg->local_port;
	own->remote_port = to_net32(msg->remote_port);
	__builtin_memcpy(other->local, &remote6, sizeof(remote6));
	__builtin_memcpy(other->remote, &local6, sizeof(local6));
	other->local_port = own->remote_port;
	other->remote_port = own->local_port;
}

/* Whether something sits upon TCP, such as the kernel's TLS, which would be skipped too. */
INLINE int is_layered(const struct capture_kernel *k, const void *tcp)
{
	__u64 layer = 1;

	bpf_probe_read_kernel(&layer, sizeof(layer), tcp + k->layered);
	return layer != 0;
}

INLINE int keeps_up(const struct capture_kernel *k, const void *from, const void *to, __u32 size)
{
	__u32 written = 0, read = 1, waiting = ~0u, most = 0;

	bpf_probe_read_kernel(&written, sizeof(written), from + k->written);
	bpf_probe_read_kernel(&read, sizeof(read), to + k->read);
	if (read != written)
		return 0;
	bpf_probe_read_kernel(&waiting, sizeof(waiting), to + k->receiving);
	bpf_probe_read_kernel(&most, sizeof(most), to + k->most);
	/* a quarter: the kernel gives TCP's window half of the buffer, and drops what finds no room */
	return (__u64)waiting + size <= most / 4 && waiting <= (__u64)size * OF_ONE_SIZE;
}

INLINE int may_hand_over(const struct capture_kernel *k, struct sk_msg_md *msg)
{
	const void *from = bpf_skc_to_tcp_sock(msg->sk), *to = 0;

	bpf_probe_read_kernel(&to, sizeof(to), (void *)msg + k->chosen);
	return from && to && !is_layered(k, from) && !is_layered(k, to) &&
	       keeps_up(k, from, to, msg->size);
}

SECTION("sk_msg") int carry(struct sk_msg_md *msg)
{
	struct capture_pair own = {}, other = {};
	struct capture_kernel *k;
	__u32 zero = 0;

	k = bpf_map_lookup_elem(&kernel, &zero);
	if (!k || !k->enabled || !msg->sk)
		return SK_PASS;
	/* after shutdown(SHUT_WR) TCP refuses to send */
	if (msg->sk->state != ESTABLISHED && msg->sk->state != CLOSE_WAIT)
		return SK_PASS;
	get_pairs(msg, &own, &other);
	/* no program of this kind may hold a socket that it looked up, so it is chosen first */
	if (bpf_msg_redirect_hash(msg, &receivers, &other, BPF_F_INGRESS) != SK_PASS)
		return SK_PASS;
	if (may_hand_over(k, msg)) {
		count(STAT_HANDED_OVER);
		return SK_PASS;
	}
	count(STAT_LEFT_TO_TCP);
	/* what is chosen can't be taken back, but another can: sent from this socket, as it would be */
	return bpf_msg_redirect_hash(msg, &senders, &own, 0);
}

char _license[] SECTION("license") = "Dual BSD/GPL";
char _compiler[] SECTION("compiler") = "clang " __clang_version__;
