/*
 * depth.c: how deep OpenSSL goes on a job's stack. Prints the bytes that the deepest job has used:
 *
 *   depth sign KEY
 *   depth handshake KEY tls1.2|tls1.3 GROUP one|both      who shows a certificate
 *
 * KEY is rsa:BITS, ec:CURVE or ed25519. Client and server talk in memory, each in jobs; they shake
 * hands, and send each other a record.
 */
#include "require.h"
#include <openssl/async.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <rsasync.h>
#include <stdlib.h>
#include <string.h>

static EVP_PKEY *make_key(const char *name)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *ctx;

    if (strncmp(name, "rsa:", 4) == 0) {
        REQUIRE((ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA, NULL)) != NULL);
        REQUIRE(EVP_PKEY_keygen_init(ctx) > 0);
        REQUIRE(EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, atoi(name + 4)) > 0);
    } else if (strncmp(name, "ec:", 3) == 0) {
        REQUIRE((ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL)) != NULL);
        REQUIRE(EVP_PKEY_keygen_init(ctx) > 0);
        REQUIRE(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(ctx, OBJ_txt2nid(name + 3)) > 0);
    } else {
        REQUIRE((ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, NULL)) != NULL);
        REQUIRE(EVP_PKEY_keygen_init(ctx) > 0);
    }
    REQUIRE(EVP_PKEY_keygen(ctx, &key) > 0);
    EVP_PKEY_CTX_free(ctx);
    return key;
}

static const EVP_MD *digest_for(EVP_PKEY *key)
{
    return EVP_PKEY_base_id(key) == EVP_PKEY_ED25519 ? NULL : EVP_sha256();
}

/* ---- a signature ---- */

static int sign(void *args)
{
    EVP_PKEY *key = *(EVP_PKEY **)args;
    unsigned char signature[1024];
    size_t length = sizeof signature;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    REQUIRE(EVP_DigestSignInit(ctx, NULL, digest_for(key), NULL, key) > 0);
    REQUIRE(EVP_DigestSign(ctx, signature, &length, (const unsigned char *)"text", 4) > 0);
    EVP_MD_CTX_free(ctx);
    return 1;
}

static void sign_in_a_job(EVP_PKEY *key)
{
    ASYNC_JOB *job = NULL;
    int ret;

    REQUIRE(ASYNC_start_job(&job, NULL, &ret, sign, &key, sizeof key) == ASYNC_FINISH);
}

/* ---- a handshake ---- */

static X509 *certificate_of(EVP_PKEY *key)
{
    X509 *certificate = X509_new();
    X509_NAME *name;

    REQUIRE(X509_set_version(certificate, 2));
    REQUIRE(ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1));
    REQUIRE((name = X509_NAME_new()) != NULL);
    REQUIRE(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                       (const unsigned char *)"localhost", -1, -1, 0));
    REQUIRE(X509_set_subject_name(certificate, name) && X509_set_issuer_name(certificate, name));
    X509_NAME_free(name);
    REQUIRE(X509_gmtime_adj(X509_getm_notBefore(certificate), 0) != NULL);
    REQUIRE(X509_gmtime_adj(X509_getm_notAfter(certificate), 3600) != NULL);
    REQUIRE(X509_set_pubkey(certificate, key));
    REQUIRE(X509_sign(certificate, key, digest_for(key)) > 0);
    return certificate;
}

static SSL *end(const SSL_METHOD *method, const char *version, const char *group, EVP_PKEY *key,
                X509 *certificate, int has_certificate, int asks_for_one)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    int protocol = strcmp(version, "tls1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
    SSL *ssl;

    REQUIRE(SSL_CTX_set_min_proto_version(ctx, protocol));
    REQUIRE(SSL_CTX_set_max_proto_version(ctx, protocol));
    REQUIRE(SSL_CTX_set1_groups_list(ctx, group));
    REQUIRE(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), certificate));
    if (has_certificate) {
        REQUIRE(SSL_CTX_use_certificate(ctx, certificate));
        REQUIRE(SSL_CTX_use_PrivateKey(ctx, key));
    }
    if (asks_for_one)
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ASYNC);
    REQUIRE((ssl = SSL_new(ctx)) != NULL);
    SSL_CTX_free(ctx);
    return ssl;
}

/* One step of a handshake: done, or it waits for the other end. */
static int is_done(SSL *ssl)
{
    int ret = SSL_do_handshake(ssl);

    REQUIRE(ret == 1 || SSL_get_error(ssl, ret) == SSL_ERROR_WANT_READ);
    return ret == 1;
}

static void send_record(SSL *from, SSL *to)
{
    static char record[16000], got[sizeof record];
    int length = 0, more;

    REQUIRE(SSL_write(from, record, sizeof record) == sizeof record);
    while (length < (int)sizeof got) {
        more = SSL_read(to, got + length, (int)sizeof got - length);
        REQUIRE(more > 0 || SSL_get_error(to, more) == SSL_ERROR_WANT_READ);
        length += more > 0 ? more : 0;
    }
}

static void shake_hands_in_jobs(EVP_PKEY *key, const char *version, const char *group, int both)
{
    X509 *certificate = certificate_of(key);
    SSL *server = end(TLS_server_method(), version, group, key, certificate, 1, both);
    SSL *client = end(TLS_client_method(), version, group, key, certificate, both, 1);
    BIO *of_server, *of_client;
    int done = 0;

    REQUIRE(BIO_new_bio_pair(&of_server, 65536, &of_client, 65536));
    SSL_set_bio(server, of_server, of_server);
    SSL_set_bio(client, of_client, of_client);
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    for (int i = 0; i < 10 && !done; i++) {
        done = is_done(client);
        done &= is_done(server);
    }
    REQUIRE(done);
    send_record(client, server);
    send_record(server, client);
    SSL_free(server);
    SSL_free(client);
    X509_free(certificate);
}

int main(int argc, char **argv)
{
    struct rsasync_stats stats;
    EVP_PKEY *key;

    REQUIRE(argc == 3 || argc == 6);
    key = make_key(argv[2]);
    if (strcmp(argv[1], "sign") == 0)
        sign_in_a_job(key);
    else
        shake_hands_in_jobs(key, argv[3], argv[4], strcmp(argv[5], "both") == 0);
    EVP_PKEY_free(key);
    RSASYNC_get_stats(&stats, sizeof stats);
    REQUIRE(stats.starts > 0 && stats.starts == stats.finishes);
    printf("%llu\n", (unsigned long long)stats.stack_deepest_bytes);
    return 0;
}
