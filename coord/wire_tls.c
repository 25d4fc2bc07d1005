/*
 * TLS of the control connections: version 1.3 only, a certificate of our own
 * CA on both sides, no session resumption (each connection proves itself),
 * no other trust: the system's CAs are not loaded.
 *
 * Whoever holds a certificate of the CA may speak. The side that connects
 * also checks that it reached the host that it asked for, by the alternative
 * names of the certificate; a certificate without any (made by other tools)
 * passes on the CA's word alone. The address is checked after the handshake
 * and before the first message leaves; see wire.c.
 */

#include "common/log.h"
#include "coord/wire_internal.h"

#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <event2/util.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct wire_tls {
    SSL_CTX *context;
};

#define IDENTITY_SIZE 512

VN_AUTO_DEFINE(x509, X509 *, X509_free)

/* ---- the folder --------------------------------------------------------- */

/* The first error that OpenSSL noted, in words; forgets the rest. */
static const char *openssl_reason(void)
{
    unsigned long code = ERR_get_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return reason ? reason : "unknown error";
}

/* No terminal, no question: an encrypted key is an error. */
static int no_passphrase(char *out, int size, int writing, void *arg)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static int check_file(const char *path, bool secret, struct vn_err *err)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return vn_fail(err, errno, "certificate file '%s'", path);
    if (secret && (st.st_mode & S_IRWXO))
        return vn_fail(err, EACCES,
                       "key '%s' is open to every user (mode %03o, want 600)",
                       path, (unsigned)st.st_mode & 0777u);
    return 0;
}

static int load_files(SSL_CTX *context, const char *dir, struct vn_err *err)
{
    vn_auto(free) char *ca = vn_format("%s/ca.crt", dir);
    vn_auto(free) char *certificate = vn_format("%s/host.crt", dir);
    vn_auto(free) char *key = vn_format("%s/host.key", dir);

    if (check_file(ca, false, err) < 0 ||
        check_file(certificate, false, err) < 0 ||
        check_file(key, true, err) < 0)
        return -1;
    if (SSL_CTX_load_verify_file(context, ca) != 1)
        return vn_fail(err, VN_E_FORMAT, "CA certificate '%s': %s", ca,
                       openssl_reason());
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
        return vn_fail(err, VN_E_FORMAT, "certificate '%s': %s", certificate,
                       openssl_reason());
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(context) != 1)
        return vn_fail(err, VN_E_FORMAT, "key '%s': %s", key, openssl_reason());
    return 0;
}

struct wire_tls *wire_tls_load(const char *dir, struct vn_err *err)
{
    struct wire_tls *tls = vn_alloc(sizeof(*tls));

    ERR_clear_error();
    tls->context = SSL_CTX_new(TLS_method());
    if (!tls->context)
        abort();
    SSL_CTX_set_min_proto_version(tls->context, TLS1_3_VERSION);
    SSL_CTX_set_verify(tls->context,
                       SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(tls->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls->context, 0);
    /* Messages have lengths: an end without an alert is just an end. */
    SSL_CTX_set_options(tls->context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_default_passwd_cb(tls->context, no_passphrase);
    if (load_files(tls->context, dir, err) < 0) {
        wire_tls_free(tls);
        return NULL;
    }
    return tls;
}

void wire_tls_free(struct wire_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->context);
    free(tls);
}

SSL *wire_tls_session(struct wire_tls *tls)
{
    SSL *ssl = SSL_new(tls->context);

    if (!ssl)
        abort();
    return ssl;
}

/* ---- the peer ----------------------------------------------------------- */

static int matches(X509 *certificate, const char *host)
{
    return X509_check_ip_asc(certificate, host, 0) == 1 ||
           X509_check_host(certificate, host, 0,
                           X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
}

/* Printable text of a name from a certificate. */
static void put_name(char *out, size_t size, const char *kind,
                     const unsigned char *name, int name_size)
{
    size_t used = strlen(out);

    if (used + strlen(kind) + 2 >= size)
        return;
    strcat(out, kind);
    used += strlen(kind);
    for (int i = 0; i < name_size && used + 1 < size; i++)
        out[used++] = name[i] > ' ' && name[i] < 127 && name[i] != '\''
                          ? (char)name[i]
                          : '?';
    out[used] = 0;
}

static void put_alternative(char *out, size_t size, const char *separator,
                            const GENERAL_NAME *name)
{
    char kind[16];

    if (name->type == GEN_DNS) {
        snprintf(kind, sizeof(kind), "%sDNS:", separator);
        put_name(out, size, kind, ASN1_STRING_get0_data(name->d.dNSName),
                 ASN1_STRING_length(name->d.dNSName));
    } else if (name->type == GEN_IPADD) {
        int bytes = ASN1_STRING_length(name->d.iPAddress);
        char text[64] = "?";

        if (bytes == 4 || bytes == 16)
            evutil_inet_ntop(bytes == 4 ? AF_INET : AF_INET6,
                             ASN1_STRING_get0_data(name->d.iPAddress), text,
                             sizeof(text));
        snprintf(kind, sizeof(kind), "%sIP:", separator);
        put_name(out, size, kind, (const unsigned char *)text,
                 (int)strlen(text));
    }
}

/* "CN (DNS:..., IP:...)". */
static void describe(X509 *certificate, const GENERAL_NAMES *names, char *out,
                     size_t size)
{
    X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    const ASN1_STRING *cn;

    out[0] = 0;
    if (at >= 0) {
        cn = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
        put_name(out, size, "", ASN1_STRING_get0_data(cn),
                 ASN1_STRING_length(cn));
    }
    if (!out[0])
        strcpy(out, "?");
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
        put_alternative(out, size - 1, i ? "," : " (",
                        sk_GENERAL_NAME_value(names, i));
    if (sk_GENERAL_NAME_num(names) > 0)
        strcat(out, ")");
}

char *wire_tls_identify(SSL *ssl, const char *host, struct vn_err *err)
{
    vn_auto(x509) X509 *certificate = SSL_get1_peer_certificate(ssl);
    GENERAL_NAMES *names;
    char who[IDENTITY_SIZE];
    bool other;

    if (!certificate || SSL_get_verify_result(ssl) != X509_V_OK)
        return vn_fail_ptr(err, VN_E_PEER, "the peer showed no certificate");
    names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    describe(certificate, names, who, sizeof(who));
    other = host && names && !matches(certificate, host);
    GENERAL_NAMES_free(names);
    if (other)
        return vn_fail_ptr(err, VN_E_PEER,
                           "its certificate is for %.300s, not for '%.100s'",
                           who, host);
    return vn_strdup(who);
}

int wire_tls_fail(struct bufferevent *bev, struct vn_err *err)
{
    SSL *ssl = bufferevent_openssl_get_ssl(bev);
    unsigned long code = bufferevent_get_openssl_error(bev);
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    long verdict = SSL_get_verify_result(ssl);
    int error = errno;

    if (verdict != X509_V_OK)
        return vn_fail(err, VN_E_PEER, "its certificate is refused: %s",
                       X509_verify_cert_error_string(verdict));
    if (reason)
        return vn_fail(err, VN_E_PEER, "TLS: %s", reason);
    return vn_fail(err, error ? error : EIO, "TLS connection");
}
