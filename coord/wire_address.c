#include "coord/wire_address.h"

#include <stdlib.h>
#include <string.h>

static int parse_port(const char *text, const char *digits, uint16_t *ret,
                      struct vn_err *err)
{
    size_t len = strspn(digits, "0123456789");
    unsigned long port;

    if (len == 0 || len > 5 || digits[len])
        return vn_fail(err, VN_E_FORMAT, "'%.280s': bad port '%.20s'", text,
                       digits);
    port = strtoul(digits, NULL, 10);
    if (port > UINT16_MAX)
        return vn_fail(err, VN_E_FORMAT, "'%.280s': port %lu is above 65535",
                       text, port);
    *ret = (uint16_t)port;
    return 0;
}

/* The extent of the host in text, and the text behind it ("" or ":PORT"). */
static int split_host(const char *text, const char **ret_host, size_t *ret_len,
                      const char **ret_rest, struct vn_err *err)
{
    const char *colon = strchr(text, ':');
    const char *bracket;

    if (text[0] == '[') {
        bracket = strchr(text, ']');
        if (!bracket || (bracket[1] && bracket[1] != ':'))
            return vn_fail(err, VN_E_FORMAT, "'%.280s': expected '[IPV6]:PORT'",
                           text);
        *ret_host = text + 1;
        *ret_len = (size_t)(bracket - text) - 1;
        *ret_rest = bracket + 1;
        return 0;
    }
    *ret_host = text;
    /* Two colons and no bracket: a bare IPv6 address. */
    *ret_len = colon && !strchr(colon + 1, ':') ? (size_t)(colon - text)
                                                : strlen(text);
    *ret_rest = text + *ret_len;
    return 0;
}

int wire_host_parse(const char *text, int otherwise,
                    char host[WIRE_HOST_MAX + 1], uint16_t *ret_port,
                    struct vn_err *err)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%";
    const char *start = text, *rest = text;
    uint16_t port = (uint16_t)otherwise;
    size_t len = 0;

    if (split_host(text, &start, &len, &rest, err) < 0)
        return -1;
    if (len == 0 || len > WIRE_HOST_MAX || strspn(start, allowed) < len)
        return vn_fail(err, VN_E_FORMAT, "'%.280s' is not a host address",
                       text);
    if (*rest == 0 && otherwise < 0)
        return vn_fail(err, VN_E_FORMAT, "'%.280s' has no port", text);
    if (*rest && parse_port(text, rest + 1, &port, err) < 0)
        return -1;
    memcpy(host, start, len);
    host[len] = 0;
    *ret_port = port;
    return 0;
}

int wire_address_parse(const char *text, struct wire_address *ret,
                       struct vn_err *err)
{
    struct wire_address address = {.kind = WIRE_TLS};

    if (strncmp(text, "unix:", 5) == 0) {
        address.kind = WIRE_UNIX;
        if (!text[5])
            return vn_fail(err, VN_E_FORMAT, "address '%s' has no path", text);
        if (strlen(text + 5) >= sizeof(address.path))
            return vn_fail(err, VN_E_FORMAT,
                           "address '%.200s': the path of a unix socket has "
                           "at most %zu bytes",
                           text, sizeof(address.path) - 1);
        strcpy(address.path, text + 5);
    } else if (strncmp(text, "tls:", 4) == 0) {
        if (wire_host_parse(text + 4, -1, address.host, &address.port, err) < 0)
            return vn_wrap(err, "address '%.280s'", text);
    } else {
        return vn_fail(err, VN_E_FORMAT,
                       "address '%.280s': expected unix:PATH or "
                       "tls:HOST:PORT",
                       text);
    }
    *ret = address;
    return 0;
}
