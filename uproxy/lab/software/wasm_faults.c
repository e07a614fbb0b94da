/* A module with faults: a request for /crash ends in a trap, one for /loop never ends. */
#include "proxy_wasm.h"

static int asks_for(text path, text word) {
    for (size_t at = 0; at < word.size; at++)
        if (at >= path.size || path.data[at] != word.data[at]) return 0;
    return path.size == word.size;
}

EXPORT(proxy_on_request_headers) int32_t proxy_on_request_headers(int32_t context, int32_t count, int32_t last) {
    memory_used = 0;
    text path = get_header(REQUEST_HEADERS, TEXT(":path"));
    if (asks_for(path, TEXT("/crash"))) __builtin_trap();
    for (volatile int forever = asks_for(path, TEXT("/loop")); forever;) continue;
    set_header(REQUEST_HEADERS, TEXT("x-service-account"), TEXT("nobody"));
    return CONTINUE;
}
