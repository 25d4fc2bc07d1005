#ifndef STORE_ARCHIVE_IMPORT_INTERNAL_H
#define STORE_ARCHIVE_IMPORT_INTERNAL_H

/* Shared by archive_import.c and archive_import_*.c only. */

#include "store/archive_internal.h"

struct importer {
    struct store *store;
    const struct archive_import_opts *opts;
    struct store_writer *writer;
    uint64_t domain;         /* of all that is imported */
    struct store_hold *hold; /* from before the base was loaded */
    json_t *base;            /* manifest of an incremental tar's base */
    const char *since;       /* its name in the tar */
    json_t *base_sums;       /* and the sums of its objects */
    json_t *since_object;    /* which holds both */
    json_t *parent;          /* newest of the series here, or NULL */
    struct archive *tar;
    uint8_t *block;      /* READ_SIZE: what libarchive was given last */
    size_t block_size;   /* of that */
    uint64_t read_bytes; /* of the tar until now */
    char *folder;        /* first part of every member's name */
    json_t *manifest;    /* as in the tar */
    json_t *objects;     /* of it, borrowed */
    json_t *result;      /* what will be committed */
    json_t *sums;        /* member -> hex, of what was read */
    uint8_t *run;        /* ARCHIVE_BLOCK_SIZE, for struct ingest */
    uint8_t *old;        /* likewise, of the base */
    uint64_t done;
    uint64_t total;
};

/* ---- archive_import_head.c -------------------------------------------- */

/*
 * The next member's name below the folder, valid until the next call, and its
 * size. The first member sets the folder. 1, or 0 at the end of the tar.
 */
int importer_next(struct importer *x, const char **ret_name, uint64_t *ret_size,
                  struct vn_err *err) VN_MUST_USE;
/* A whole document of at most `max` bytes; out is done by the caller. */
int importer_document(struct importer *x, const char *name, uint64_t size,
                      size_t max, struct buf *out,
                      struct vn_err *err) VN_MUST_USE;
/* The sum of a member that was read; `sum` is at its end. */
void importer_note_sum(struct importer *x, const char *name, EVP_MD_CTX *sum);
/* The manifest, which must come first; `name` as in archive_import_opts. */
int importer_head(struct importer *x, const char *name,
                  struct vn_err *err) VN_MUST_USE;
/* The newest of the series, if any: pages are found in its place first. */
void importer_load_parent(struct importer *x);

/* ---- archive_import_object.c ------------------------------------------ */

/* A member that is an object: checked, taken in, in the result. */
int importer_object(struct importer *x, const char *name, uint64_t size,
                    struct vn_err *err) VN_MUST_USE;

#endif
