#ifndef COMMON_AUTO_H
#define COMMON_AUTO_H

/*
 * Cleanup by scope.
 *
 *     vn_auto(free) char *name = strdup(x);     freed when the scope ends
 *     vn_auto(close) int fd = -1;               closed if it is >= 0
 *     return vn_steal(&name);                   give it away instead
 *
 * A type adds its own kind with VN_AUTO_DEFINE(kind, type *, x_free): the
 * function must accept NULL.
 */

#include <jansson.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

#define vn_auto(kind) __attribute__((cleanup(vn_auto_##kind)))

#define VN_AUTO_DEFINE(kind, type, function)                                   \
    static inline void vn_auto_##kind(type *p)                                 \
    {                                                                          \
        function(*p);                                                          \
    }

/* Take the pointer (or descriptor) out of *p, leaving nothing behind. */
#define vn_steal(p)                                                            \
    ({                                                                         \
        __typeof__(*(p)) vn_stolen = *(p);                                     \
        *(p) = NULL;                                                           \
        vn_stolen;                                                             \
    })
#define vn_steal_fd(p)                                                         \
    ({                                                                         \
        int vn_stolen = *(p);                                                  \
        *(p) = -1;                                                             \
        vn_stolen;                                                             \
    })

/* Hold a pthread mutex until the end of the scope. */
#define vn_lock_scope(m)                                                       \
    vn_auto(unlock) __attribute__((unused)) pthread_mutex_t *vn_lock_held =    \
        vn_lock_take(m)

void vn_auto_free(void *p);
void vn_auto_close(int *fd);
void vn_auto_fclose(FILE **file);
void vn_auto_json(json_t **json);
void vn_auto_unlock(pthread_mutex_t **m);
pthread_mutex_t *vn_lock_take(pthread_mutex_t *m);

/* Small fixed allocations: zeroed, aborting when memory is out. */
void *vn_alloc(size_t size) __attribute__((malloc, returns_nonnull));
char *vn_strdup(const char *s) __attribute__((malloc, returns_nonnull));
/* asprintf that aborts when memory is out. */
char *vn_format(const char *format, ...)
    __attribute__((format(printf, 1, 2), malloc, returns_nonnull));

#define VN_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
