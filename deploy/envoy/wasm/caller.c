/* Gives the application the caller's service account in x-service-account, answers a caller that has none with 403, and marks
 * answers with x-wasm.  The caller is what Envoy has put into x-caller: its SPIFFE ID, /ns/NAMESPACE/sa/SERVICE-ACCOUNT. */
#include "proxy_wasm.h"

static text service_account(text caller) {
    size_t at = caller.size;
    while (at > 0 && caller.data[at - 1] != '/') at--;
    const char *before = caller.data + at - 4;
    if (at < 4 || before[0] != '/' || before[1] != 's' || before[2] != 'a') return (text){0, 0};
    return (text){caller.data + at, caller.size - at};
}

EXPORT(proxy_on_request_headers) int32_t proxy_on_request_headers(int32_t context, int32_t count, int32_t last) {
    memory_used = 0;
    text account = service_account(get_header(REQUEST_HEADERS, TEXT("x-caller")));
    if (account.size == 0) return answer(403, TEXT("the caller has no service account\n"));
    set_header(REQUEST_HEADERS, TEXT("x-service-account"), account);
    return CONTINUE;
}

EXPORT(proxy_on_response_headers) int32_t proxy_on_response_headers(int32_t context, int32_t count, int32_t last) {
    memory_used = 0;
    set_header(RESPONSE_HEADERS, TEXT("x-wasm"), TEXT("seen"));
    return CONTINUE;
}
