/*
 * What the programs of all objects share: three maps, which the loader makes once, and their readers.
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
MAP(own, BPF_MAP_TYPE_LPM_TRIE, struct capture_prefix, __u32, 16384, BPF_F_NO_PREALLOC);

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

/* Looks an address up in an LPM trie. */
INLINE __u32 *find_prefix(void *map, const __u32 *word)
{
	struct capture_prefix key = { 128, { word[0], word[1], word[2], word[3] } };

	return bpf_map_lookup_elem(map, &key);
}

INLINE void count(__u32 stat)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &stat);

	if (value)
		*value += 1;
}

#endif
