"""OpenSSL's functions, called through a table of addresses that `_engine` fills once, before any
thread runs.  A function that is declared here and isn't in machine.h's OSSL_FUNCTIONS doesn't
compile.
"""


cdef extern from "machine.h" nogil:
    ctypedef int (*verify_t)(int, void *) noexcept nogil

    void *BIO_new "ossl.BIO_new"(void *)
    void *BIO_s_mem "ossl.BIO_s_mem"()
    void *BIO_new_mem_buf "ossl.BIO_new_mem_buf"(void *, int)
    long BIO_set_mem_eof_return "ossl.BIO_set_mem_eof_return"(void *, int)
    long BIO_get_mem_data "ossl.BIO_get_mem_data"(void *, char **)
    int BIO_read "ossl.BIO_read"(void *, void *, int)
    int BIO_free "ossl.BIO_free"(void *)
    void ERR_clear_error "ossl.ERR_clear_error"()
    unsigned long ERR_get_error "ossl.ERR_get_error"()
    unsigned long ERR_peek_error "ossl.ERR_peek_error"()
    int SSL_get_shutdown "ossl.SSL_get_shutdown"(const void *)
    void *SSL_new "ossl.SSL_new"(void *)
    void *SSL_set_SSL_CTX "ossl.SSL_set_SSL_CTX"(void *, void *)
    void SSL_free "ossl.SSL_free"(void *)
    void SSL_set_bio "ossl.SSL_set_bio"(void *, void *, void *)
    void SSL_set_verify "ossl.SSL_set_verify"(void *, int, verify_t)
    void SSL_set_accept_state "ossl.SSL_set_accept_state"(void *)
    void SSL_set_connect_state "ossl.SSL_set_connect_state"(void *)
    void SSL_set_tlsext_host_name "ossl.SSL_set_tlsext_host_name"(void *, const char *)
    int SSL_do_handshake "ossl.SSL_do_handshake"(void *)
    int SSL_session_reused "ossl.SSL_session_reused"(void *)
    int SSL_shutdown "ossl.SSL_shutdown"(void *)
    int SSL_get_error "ossl.SSL_get_error"(void *, int)
    int SSL_read "ossl.SSL_read"(void *, void *, int)
    int SSL_write "ossl.SSL_write"(void *, const void *, int)
    const char *SSL_get_version "ossl.SSL_get_version"(void *)
    const char *SSL_get0_group_name "ossl.SSL_get0_group_name"(void *)
    void *SSL_get_current_cipher "ossl.SSL_get_current_cipher"(void *)
    const char *SSL_CIPHER_get_name "ossl.SSL_CIPHER_get_name"(void *)
    void X509_STORE_CTX_set_error "ossl.X509_STORE_CTX_set_error"(void *, int)
    void *SSL_get_peer_certificate "ossl.SSL_get_peer_certificate"(void *)
    int X509_set_pubkey "ossl.X509_set_pubkey"(void *, void *)
    int X509_set_subject_name "ossl.X509_set_subject_name"(void *, void *)
    int X509_set_issuer_name "ossl.X509_set_issuer_name"(void *, void *)
    void X509_free "ossl.X509_free"(void *)

    void *ossl_small_key
    void *ossl_empty_name
    int OPENSSL_FUNCTION_COUNT
    struct OpensslFunction "openssl_function":
        const char *name
        void **place
    OpensslFunction *openssl_functions

cdef enum:
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_SYSCALL = 5
    SSL_ERROR_ZERO_RETURN = 6
    SSL_RECEIVED_SHUTDOWN = 2
    SSL_VERIFY_PEER_AND_INSIST = 3  # SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    X509_V_OK = 0
    X509_V_ERR_UNSPECIFIED = 1
    X509_V_ERR_APPLICATION_VERIFICATION = 50  # becomes the alert handshake_failure
    X509_V_ERR_CERT_REJECTED = 28  # becomes the alert bad_certificate
    SSL3_RT_HANDSHAKE = 22
    ERR_LIB_SSL = 20
    SSL_R_EXCESSIVE_MESSAGE_SIZE = 152
