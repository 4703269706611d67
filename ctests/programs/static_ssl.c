/*
 * static_ssl.c: a program that calls nothing but libssl, which starts a job for a handshake in
 * asynchronous mode.
 */
#include <openssl/ssl.h>

int main(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    int ret;

    SSL_set_mode(ssl, SSL_MODE_ASYNC);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    ret = SSL_connect(ssl);
    /* The client's first message is written, and there is no answer to read. */
    if (SSL_get_error(ssl, ret) != SSL_ERROR_WANT_READ || BIO_pending(SSL_get_wbio(ssl)) == 0)
        return 1;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    return 0;
}
