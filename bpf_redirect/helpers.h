/*
 * The few things of libbpf that the programs need, so that building takes clang and the kernel's
 * own headers only.
 */
#ifndef UPROXY_HELPERS_H
#define UPROXY_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define to_net32(x) __builtin_bswap32(x)
#define to_host16(x) __builtin_bswap16(x)
#else
#error "the loader knows little-endian machines only"
#endif

/* As data in the object, where the loader reads it; no BTF needed. */
struct map_definition {
	__u32 type, key_size, value_size, max_entries, flags;
};

#define MAP(name, map_type, key, value, entries, map_flags)                                      \
	struct map_definition name SECTION("maps") = {                                            \
		.type = map_type,                                                                 \
		.key_size = sizeof(key),                                                          \
		.value_size = sizeof(value),                                                      \
		.max_entries = entries,                                                           \
		.flags = map_flags,                                                               \
	}

#define HELPER(result, name, ...)                                                                \
	static result (*const bpf_##name)(__VA_ARGS__) = (void *)BPF_FUNC_##name

HELPER(void *, map_lookup_elem, void *map, const void *key);
HELPER(long, setsockopt, void *ctx, int level, int name, void *value, int length);
HELPER(long, set_retval, int value);
HELPER(__u64, get_netns_cookie, void *ctx);
HELPER(__u64, get_current_cgroup_id, void);
HELPER(long, sk_assign, void *ctx, void *sk, __u64 flags);
HELPER(long, sk_release, void *sk);
HELPER(long, sock_map_update, struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags);
HELPER(long, sock_hash_update, struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags);
HELPER(long, msg_redirect_hash, struct sk_msg_md *msg, void *map, void *key, __u64 flags);
HELPER(void *, skc_to_tcp_sock, void *sk);
HELPER(long, probe_read_kernel, void *into, __u32 size, const void *from);

#endif
