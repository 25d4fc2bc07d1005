#ifndef CAPTURE_QEMU_STREAM_H
#define CAPTURE_QEMU_STREAM_H

/*
 * QEMU's migration stream, version 3, taken apart as it arrives.
 *
 * The parser is fed bytes in any portions and reports RAM pages through a
 * callback. From the first FULL section on, everything is one opaque blob: the
 * device state. Whatever it does not know it refuses, naming the offset.
 * Source: QEMU docs/devel/migration, savevm.c, ram.c; facts and the grammar:
 * docs/formats/qemu-stream.md.
 */

#include "common/auto.h"
#include "common/buf.h"
#include "common/err.h"

#include <stdbool.h>
#include <stdint.h>

#define QEMU_PAGE_SIZE        4096u
#define QEMU_BLOCKS_MAX       64u
#define QEMU_BLOCK_NAME_MAX   255u
#define QEMU_DEVICE_STATE_MAX (64u << 20)
#define QEMU_MACHINE_NAME_MAX 255u
#define QEMU_HEAD_MAX         1024u        /* the longest head we accept */
#define QEMU_RAM_MAX          (1ull << 46) /* bytes in all blocks together */

struct qemu_block {
    char name[QEMU_BLOCK_NAME_MAX + 1]; /* "pc.ram" */
    uint64_t size;                      /* bytes, a multiple of 4096 */
};

struct qemu_stream;

struct qemu_stream_sink {
    /* A block list was read; called once, before any page. */
    int (*blocks)(void *context, const struct qemu_block *blocks,
                  unsigned count, struct vn_err *err);
    /* `page` is 4096 bytes valid during the call, or NULL for zeros. A page
     * may come again: the last one counts. */
    int (*page)(void *context, unsigned block, uint64_t offset,
                const void *page, struct vn_err *err);
    void *context;
};

struct qemu_stream *qemu_stream_new(const struct qemu_stream_sink *sink);
void qemu_stream_free(struct qemu_stream *stream);

/* Take the next bytes of the stream. Fails with VN_E_FORMAT ("at byte N: ..."),
 * VN_E_UNSUPPORTED (a section or capability we must not guess at), VN_E_LIMIT,
 * or whatever the sink raised. After a failure only free is allowed. */
int qemu_stream_feed(struct qemu_stream *stream, const void *data, size_t size,
                     struct vn_err *err) VN_MUST_USE;
/* True once the first RAM record after the block list was parsed: the sender
 * has armed its write protection (QEMU >= 8 may then be continued). */
bool qemu_stream_ram_began(const struct qemu_stream *stream);
/* The stream ended. Fails when it ended early. */
int qemu_stream_finish(struct qemu_stream *stream,
                       struct vn_err *err) VN_MUST_USE;

/* After finish; all borrowed from the stream. */
/* Bytes from "QEVM" to the end of the configuration section, verbatim. */
const struct buf *qemu_stream_head(const struct qemu_stream *stream);
const char *qemu_stream_machine(const struct qemu_stream *stream);
const struct qemu_block *qemu_stream_blocks(const struct qemu_stream *stream,
                                            unsigned *ret_count);
/* From the first FULL section to the end of the stream, verbatim. */
const struct buf *qemu_stream_device_state(const struct qemu_stream *stream);

/* ---- parts of a stream that come back from a snapshot ------------------ */

/* Is this a head, whole and without anything after it? On success the
 * machine's name is in ret_machine. Errors as qemu_stream_feed(). */
int qemu_stream_check_head(const void *data, size_t size,
                           char ret_machine[QEMU_MACHINE_NAME_MAX + 1],
                           struct vn_err *err) VN_MUST_USE;
/* Could this be a block of a stream: a usable name, a size in pages, within
 * the limits? VN_E_FORMAT or VN_E_LIMIT say why not. */
int qemu_stream_check_block(const char *name, size_t name_size, uint64_t size,
                            struct vn_err *err) VN_MUST_USE;
/* Does it begin with a FULL section and end as a stream must? What is between
 * is QEMU's own affair. */
int qemu_stream_check_device_state(const void *data, size_t size,
                                   struct vn_err *err) VN_MUST_USE;

VN_AUTO_DEFINE(qemu_stream, struct qemu_stream *, qemu_stream_free)

#endif
