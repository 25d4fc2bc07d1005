#include "common/auto.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void vn_auto_free(void *p)
{
    free(*(void **)p);
}

void vn_auto_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

void vn_auto_fclose(FILE **file)
{
    if (*file)
        fclose(*file);
}

void vn_auto_json(json_t **json)
{
    json_decref(*json);
}

void vn_auto_unlock(pthread_mutex_t **m)
{
    pthread_mutex_unlock(*m);
}

pthread_mutex_t *vn_lock_take(pthread_mutex_t *m)
{
    pthread_mutex_lock(m);
    return m;
}

void *vn_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);

    if (!p)
        abort();
    return p;
}

char *vn_strdup(const char *s)
{
    char *copy = strdup(s);

    if (!copy)
        abort();
    return copy;
}

char *vn_format(const char *format, ...)
{
    va_list args;
    char *text;
    int len;

    va_start(args, format);
    len = vasprintf(&text, format, args);
    va_end(args);
    if (len < 0)
        abort();
    return text;
}
