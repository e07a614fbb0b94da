/*
 * What the programs of all objects share: two maps, which the loader makes once, and their readers.
 */
#ifndef UPROXY_COMMON_H
#define UPROXY_COMMON_H

#include "capture.h"
#include "helpers.h"

#define AF_INET 2
#define MAPPED to_net32(0xffff)
#define PASS 1

struct address {
	__u32 word[4];
};

MAP(config, BPF_MAP_TYPE_ARRAY, __u32, struct capture_config, 1, 0);
MAP(stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, STATS, 0);

INLINE struct capture_config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

INLINE struct capture_config *get_enabled_config(void)
{
	struct capture_config *c = get_config();

	return c && c->enabled ? c : 0;
}

INLINE void count(__u32 stat)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &stat);

	if (value)
		*value += 1;
}

#endif
