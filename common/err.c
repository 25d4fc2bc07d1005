#include "common/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *vn_err_name(int code)
{
    switch (code) {
    case VN_E_CORRUPT:
        return "damaged data";
    case VN_E_FORMAT:
        return "bad format";
    case VN_E_PEER:
        return "peer failed";
    case VN_E_LIMIT:
        return "limit exceeded";
    case VN_E_VERSION:
        return "unknown version";
    case VN_E_NOT_FOUND:
        return "not found";
    case VN_E_EXISTS:
        return "already exists";
    case VN_E_STATE:
        return "not possible now";
    case VN_E_TIMEOUT:
        return "timed out";
    case VN_E_UNSUPPORTED:
        return "not supported";
    default:
        /* strerrordesc_np is thread-safe; NULL for unknown numbers. */
        return strerrordesc_np(code) ? strerrordesc_np(code) : "unknown error";
    }
}

int vn_err_raise(struct vn_err *err, int code, const char *file, int line,
                 const char *format, ...)
{
    va_list args;
    int len;

    assert(err && code != 0);
    err->code = code;
    err->file = file;
    err->line = line;
    va_start(args, format);
    len = vsnprintf(err->msg, sizeof(err->msg), format, args);
    va_end(args);
    if (code < VN_E_CORRUPT && len >= 0 && (size_t)len < sizeof(err->msg))
        snprintf(err->msg + len, sizeof(err->msg) - (size_t)len, ": %s",
                 vn_err_name(code));
    return -1;
}

int vn_err_wrap(struct vn_err *err, const char *format, ...)
{
    char old[VN_ERR_MSG_SIZE];
    va_list args;
    int len;

    assert(err && err->code != 0);
    memcpy(old, err->msg, sizeof(old));
    va_start(args, format);
    len = vsnprintf(err->msg, sizeof(err->msg), format, args);
    va_end(args);
    if (len >= 0 && (size_t)len < sizeof(err->msg))
        snprintf(err->msg + len, sizeof(err->msg) - (size_t)len, ": %s", old);
    return -1;
}
