/* What a module needs of Proxy-Wasm (ABI 0.2.1) to read and change headers; see the specification for the rest:
 * github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1 */
#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(#name)))
#define IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { CONTINUE = 0, PAUSE = 1 };
enum { OK = 0 };

typedef struct {
    const char *data;
    size_t size;
} text;

#define TEXT(literal) ((text){(literal), sizeof(literal) - 1})

IMPORT(proxy_get_header_map_value)
int32_t proxy_get_header_map_value(int32_t map, const char *key, size_t key_size, const char **data, size_t *size);
IMPORT(proxy_replace_header_map_value)
int32_t proxy_replace_header_map_value(int32_t map, const char *key, size_t key_size, const char *data, size_t size);
IMPORT(proxy_send_local_response)
int32_t proxy_send_local_response(int32_t status, const char *details, size_t details_size, const char *body, size_t body_size,
                                  const char *headers, size_t headers_size, int32_t grpc_status);

/* Envoy asks for memory to return a value in.  A callback keeps none of it, so that the next one starts afresh. */
static char memory_of_callback[1 << 16];
static size_t memory_used;

EXPORT(proxy_on_memory_allocate) void *proxy_on_memory_allocate(size_t size) {
    if (size > sizeof memory_of_callback - memory_used) return 0;
    void *found = memory_of_callback + memory_used;
    memory_used += (size + 7) & ~(size_t)7;
    return found;
}

static inline text get_header(int32_t map, text name) {
    text value = {0, 0};
    if (proxy_get_header_map_value(map, name.data, name.size, &value.data, &value.size) != OK) value.size = 0;
    return value;
}

static inline void set_header(int32_t map, text name, text value) {
    proxy_replace_header_map_value(map, name.data, name.size, value.data, value.size);
}

static inline int32_t answer(int32_t status, text body) {
    proxy_send_local_response(status, 0, 0, body.data, body.size, 0, 0, -1);
    return PAUSE;
}

EXPORT(proxy_abi_version_0_2_1) void proxy_abi_version_0_2_1(void) {}
EXPORT(proxy_on_vm_start) int32_t proxy_on_vm_start(int32_t root, int32_t size) { return 1; }
EXPORT(proxy_on_configure) int32_t proxy_on_configure(int32_t root, int32_t size) { return 1; }
EXPORT(proxy_on_context_create) void proxy_on_context_create(int32_t context, int32_t parent) {}
EXPORT(proxy_on_done) int32_t proxy_on_done(int32_t context) { return 1; }
EXPORT(proxy_on_delete) void proxy_on_delete(int32_t context) {}
