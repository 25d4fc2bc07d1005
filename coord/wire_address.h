#ifndef COORD_WIRE_ADDRESS_H
#define COORD_WIRE_ADDRESS_H

/* Addresses of agents: "unix:PATH" or "tls:HOST:PORT". Pure. */

#include "common/err.h"

#include <stdint.h>
#include <sys/un.h>

#define WIRE_HOST_MAX 253 /* RFC 1035 */

struct wire_address {
    enum { WIRE_UNIX, WIRE_TLS } kind;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char host[WIRE_HOST_MAX + 1]; /* an IPv6 address without its brackets */
    uint16_t port;                /* 0: any free one; for listeners only */
};

/* Fails with VN_E_FORMAT, quoting the text. IPv6: "tls:[::1]:7070". */
int wire_address_parse(const char *text, struct wire_address *ret,
                       struct vn_err *err) VN_MUST_USE;

/*
 * Split "HOST:PORT", "[V6]:PORT", "HOST", "[V6]" or a bare V6. Where no port
 * is given it is `otherwise`, or an error if that is negative.
 */
int wire_host_parse(const char *text, int otherwise,
                    char host[WIRE_HOST_MAX + 1], uint16_t *ret_port,
                    struct vn_err *err) VN_MUST_USE;

#endif
