#ifndef COORD_VNE_INTERNAL_H
#define COORD_VNE_INTERNAL_H

/* Shared by vne.c (the model), vne_read.c (the file's meaning) and
 * vne_yaml.c (the file's text). */

#include "coord/vne.h"

#include <stdbool.h>
#include <stddef.h>

/* ---- vne.c: what a value may be; errors quote it ---- */

int vne_check_name(const char *name, struct vn_err *err) VN_MUST_USE;
/* Lower case, unicast, not zero. Returned: owned by the caller. */
char *vne_mac_normal(const char *text, struct vn_err *err) VN_MUST_USE;
/* "10.0.0.1" into "10.0.0.1:6081"; numeric addresses only. As above. */
char *vne_underlay_normal(const char *text, struct vn_err *err) VN_MUST_USE;
/* Fill in the vni if it is 0 and every MAC that is NULL. */
void vne_derive(struct vne *vne);

/* ---- vne_yaml.c: YAML as a tree that knows where everything stood ---- */

enum vne_node_kind { VNE_SCALAR, VNE_LIST, VNE_MAP };

struct vne_node {
    enum vne_node_kind kind;
    size_t line, column;     /* from 1 */
    char *text;              /* scalar; NUL-terminated, without NULs inside */
    bool null;               /* scalar: plain and empty, "~" or "null" */
    struct vne_node **items; /* list: values; map: key, value, key, value */
    size_t count;            /* of items */
};

/* Read exactly one document. Errors begin with "FILE:LINE:COLUMN: ". */
struct vne_node *vne_node_parse(const char *text, size_t size, const char *file,
                                struct vn_err *err) VN_MUST_USE;
void vne_node_free(struct vne_node *node);
VN_AUTO_DEFINE(vne_node, struct vne_node *, vne_node_free)

/* Raise "FILE:LINE:COLUMN: sentence" with VN_E_FORMAT. Returns -1. */
int vne_node_fail(struct vn_err *err, const char *file,
                  const struct vne_node *node, const char *format, ...)
    VN_PRINTF(4, 5);
/* Put the place before an error raised below. Returns -1. */
int vne_node_wrap(struct vn_err *err, const char *file,
                  const struct vne_node *node);

/* ---- vne_value.c: values held against what any text must be ---- */

#define VNE_KEYS_MAX 20  /* of one kind of map */
#define VNE_WORD_MAX 255 /* bytes in a word: a model, a format */

/* The keys that a kind of map may have; NULL behind the last. */
struct vne_keys {
    const char *what; /* "a host" */
    const char *names[VNE_KEYS_MAX];
};

/* Something that may be there once. */
struct vne_claim {
    const char *what;
    const char *text; /* owned by the VNE */
    size_t line;
};

/* A file being read. */
struct vne_reading {
    const char *file;
    const char *folder;
    struct vn_err *err;
    struct vne *vne;
    struct vne_claim *claims; /* freed by the owner of this struct */
    size_t claim_count;
    size_t claim_room;
};

#define vne_value_fail(r, node, ...)                                           \
    vne_node_fail((r)->err, (r)->file, (node), __VA_ARGS__)

/* values[i] becomes the value of keys->names[i], NULL where it is absent.
 * Unknown, doubled and valueless keys are refused. */
int vne_value_keys(struct vne_reading *r, const struct vne_keys *keys,
                   const struct vne_node *map,
                   const struct vne_node *values[VNE_KEYS_MAX]) VN_MUST_USE;
int vne_value_need(struct vne_reading *r, const struct vne_keys *keys,
                   const struct vne_node *map, size_t key,
                   const struct vne_node *values[VNE_KEYS_MAX]) VN_MUST_USE;

/* A text of at most `max` bytes without control characters; the node's. */
const char *vne_value_borrow(struct vne_reading *r, const struct vne_node *node,
                             size_t max) VN_MUST_USE;
/* A copy. Of these and the next: a NULL node leaves *ret alone; "" as well. */
int vne_value_text(struct vne_reading *r, const struct vne_node *node,
                   size_t max, char **ret) VN_MUST_USE;
/* A path, made absolute from the file's folder on. */
int vne_value_path(struct vne_reading *r, const struct vne_node *node,
                   char **ret) VN_MUST_USE;
/* From 1 to max. */
int vne_value_number(struct vne_reading *r, const struct vne_node *node,
                     const char *what, uint32_t max, uint32_t *ret) VN_MUST_USE;
int vne_value_memory(struct vne_reading *r, const struct vne_node *node,
                     uint64_t *ret) VN_MUST_USE;
char *vne_value_name(struct vne_reading *r,
                     const struct vne_node *node) VN_MUST_USE;

/* `what` may be `text` once in a file. Keeps the pointer, not a copy. */
int vne_value_claim(struct vne_reading *r, const char *what, const char *text,
                    const struct vne_node *node) VN_MUST_USE;

#endif
