#ifndef COMMON_ERR_H
#define COMMON_ERR_H

/*
 * Errors: caller-owned, without allocation, raised with a sentence.
 *
 * A function that can fail takes a `struct vn_err *err` last (never NULL) and
 * returns 0/-1 or pointer/NULL. On failure its out-parameters are untouched.
 *
 *     if (fd < 0)
 *         return vn_fail(err, errno, "open '%s'", path);
 *
 * Programs branch on `code`, people read `msg`. A caller's bug is an assert,
 * never an error code. (Idiom: crun's error object, with jansson's storage.)
 */

#include <stddef.h>

/* Codes below 1000 are errno values. */
enum vn_err_code {
    VN_E_CORRUPT = 1000, /* stored bytes are damaged */
    VN_E_FORMAT,         /* bytes or text do not follow their format */
    VN_E_PEER,           /* another process answered wrongly or went away */
    VN_E_LIMIT,          /* a named limit would be passed */
    VN_E_VERSION,        /* a newer or foreign format version */
    VN_E_NOT_FOUND,      /* no such snapshot, VM, host, chunk */
    VN_E_EXISTS,         /* the name is taken */
    VN_E_STATE,          /* not possible in the present state */
    VN_E_TIMEOUT,        /* a deadline passed */
    VN_E_UNSUPPORTED,    /* this host, VM or build cannot do it */
};

#define VN_ERR_MSG_SIZE 512

struct vn_err {
    int code;         /* 0 while nothing was raised */
    const char *file; /* where it was raised */
    int line;
    char msg[VN_ERR_MSG_SIZE];
};

#define VN_ERR_INIT                                                            \
    {                                                                          \
        .code = 0                                                              \
    }

#define VN_MUST_USE     __attribute__((warn_unused_result))
#define VN_PRINTF(a, b) __attribute__((format(printf, a, b)))

/*
 * Raise: fill err with code and the formatted sentence; where code is an
 * errno, ": " and its text are appended. Always returns -1, so that
 * `return vn_fail(...)` reads as it should. code must not be 0.
 */
#define vn_fail(err, code, ...)                                                \
    vn_err_minus_one(                                                          \
        vn_err_raise((err), (code), __FILE__, __LINE__, __VA_ARGS__))

/* The same, for functions that return a pointer: yields NULL. */
#define vn_fail_ptr(err, code, ...)                                            \
    (vn_err_raise((err), (code), __FILE__, __LINE__, __VA_ARGS__), NULL)

/*
 * Put "context: " before the message of an error raised below. Returns -1.
 * A message that becomes too long loses its end.
 */
#define vn_wrap(err, ...) vn_err_minus_one(vn_err_wrap((err), __VA_ARGS__))

/* The text for a code: strerror for an errno, a short noun for a VN_E_*. */
const char *vn_err_name(int code);

int vn_err_raise(struct vn_err *err, int code, const char *file, int line,
                 const char *format, ...) VN_PRINTF(5, 6);
int vn_err_wrap(struct vn_err *err, const char *format, ...) VN_PRINTF(2, 3);

/* Lets the compiler see that raising yields -1. */
static inline int vn_err_minus_one(int ignored)
{
    (void)ignored;
    return -1;
}

#endif
