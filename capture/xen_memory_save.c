/*
 * A domain's memory and the parts of its stream into the store.
 *
 * Pages that follow each other in the guest and in our memory are put in one
 * call, as the store hashes many at a time faster than one by one. Holes and
 * zeros are not put at all. Of a PV domain's p2m the entries are zeroed first:
 * they are machine frame numbers of this host, which differ after each restore
 * and are written anew by it, so they would only spoil deduplication.
 */

#include "capture/xen_memory_internal.h"

#include "capture/xen_objects.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RUN_PAGES   4096u /* 16 MiB in a call at most */
#define TYPES_PIECE (1u << 20)

/* ---- the p2m ----------------------------------------------------------- */

static void clear_p2m(struct xen_memory *memory,
                      const struct xen_stream *stream)
{
    uint32_t count;
    uint64_t left;
    const uint64_t *frames = xen_stream_p2m_frames(stream, &count, &left);

    for (uint32_t i = 0; i < count; i++) {
        size_t size = left < XEN_PAGE_SIZE ? (size_t)left : XEN_PAGE_SIZE;
        uintptr_t *leaf = memory->leaves[frames[i] / XEN_LEAF_PFNS];
        uintptr_t entry = leaf ? leaf[frames[i] % XEN_LEAF_PFNS] : 0;

        /* Xen refuses a p2m in a page of another type. */
        if (xen_entry_slot(entry) && xen_entry_type(entry) == XEN_PAGE_NORMAL)
            memset(xen_entry_slot(entry), 0, size);
        left -= size;
    }
}

/* ---- images ------------------------------------------------------------ */

struct target {
    struct store_writer *writer;
    const json_t *parent; /* or NULL */
    json_t *manifest;
    const char *object;
};

static struct image_writer *open_image(const struct target *target,
                                       uint64_t size, struct vn_err *err)
{
    struct vn_err none = VN_ERR_INIT;
    struct map_root parent;
    bool known =
        target->parent &&
        manifest_object(target->parent, target->object, &parent, &none) == 0;

    return image_writer_open(target->writer, size, known ? &parent : NULL, err);
}

static int finish_image(const struct target *target, struct image_writer *image,
                        struct vn_err *err)
{
    struct map_root root;

    if (image_writer_finish(image, &root, err) < 0)
        return -1;
    manifest_add(target->manifest, target->object, &root);
    return 0;
}

struct run {
    uint64_t pfn;
    const uint8_t *data;
    size_t pages;
};

static int put_run(struct image_writer *image, struct run *run,
                   struct vn_err *err)
{
    size_t pages = run->pages;

    run->pages = 0;
    return pages ? image_writer_put(image, run->pfn * XEN_PAGE_SIZE, run->data,
                                    pages * XEN_PAGE_SIZE, err)
                 : 0;
}

static int put_page(struct image_writer *image, struct run *run, uint64_t pfn,
                    const uint8_t *slot, struct vn_err *err)
{
    if (run->pages && run->pages < RUN_PAGES && pfn == run->pfn + run->pages &&
        slot == run->data + run->pages * XEN_PAGE_SIZE) {
        run->pages++;
        return 0;
    }
    if (put_run(image, run, err) < 0)
        return -1;
    *run = (struct run){pfn, slot, 1};
    return 0;
}

static int put_pages(const struct xen_memory *memory, uint64_t pfn_end,
                     struct image_writer *image, struct vn_err *err)
{
    struct run run = {0};

    for (uint64_t i = 0; i < memory->leaf_end; i++) {
        const uintptr_t *leaf = memory->leaves[i];
        uint64_t first = i * XEN_LEAF_PFNS;

        for (size_t j = 0; leaf && j < XEN_LEAF_PFNS; j++) {
            const uint8_t *slot = xen_entry_slot(leaf[j]);

            if (!slot)
                continue;
            assert(first + j < pfn_end);
            if (put_page(image, &run, first + j, slot, err) < 0)
                return -1;
        }
    }
    return put_run(image, &run, err);
}

/* ---- objects ----------------------------------------------------------- */

typedef int save_fn(const struct xen_memory *memory,
                    const struct xen_stream *stream,
                    const struct target *target, struct vn_err *err);

static int save_pages(const struct xen_memory *memory,
                      const struct xen_stream *stream,
                      const struct target *target, struct vn_err *err)
{
    uint64_t pfn_end = xen_stream_pfn_end(stream);
    vn_auto(image_writer) struct image_writer *image =
        open_image(target, pfn_end * XEN_PAGE_SIZE, err);

    if (!image || put_pages(memory, pfn_end, image, err) < 0)
        return -1;
    return finish_image(target, image, err);
}

/* The types of the pfns from `pfn` on. */
static void fill_types(const struct xen_memory *memory, uint64_t pfn,
                       uint8_t *types, size_t count)
{
    static_assert(TYPES_PIECE % XEN_LEAF_PFNS == 0, "a piece is whole leaves");

    memset(types, XEN_PAGE_XTAB, count);
    for (size_t i = 0; i < count; i += XEN_LEAF_PFNS) {
        const uintptr_t *leaf = memory->leaves[(pfn + i) / XEN_LEAF_PFNS];

        for (size_t j = 0; leaf && j < XEN_LEAF_PFNS && i + j < count; j++)
            types[i + j] = (uint8_t)xen_entry_type(leaf[j]);
    }
}

/* In pieces: a hostile stream may name one pfn at the very end. */
static int save_types(const struct xen_memory *memory,
                      const struct xen_stream *stream,
                      const struct target *target, struct vn_err *err)
{
    uint64_t pfn_end = xen_stream_pfn_end(stream);
    vn_auto(image_writer) struct image_writer *image =
        open_image(target, pfn_end, err);
    vn_auto(free) uint8_t *types = vn_alloc(TYPES_PIECE);

    if (!image)
        return -1;
    for (uint64_t pfn = 0; pfn < pfn_end; pfn += TYPES_PIECE) {
        size_t count =
            pfn_end - pfn < TYPES_PIECE ? (size_t)(pfn_end - pfn) : TYPES_PIECE;

        fill_types(memory, pfn, types, count);
        if (image_writer_put(image, pfn, types, count, err) < 0)
            return -1;
    }
    return finish_image(target, image, err);
}

static int save_part(const struct buf *part, const struct target *target,
                     struct vn_err *err)
{
    struct map_root root;

    if (store_put_bytes(target->writer, part->data, part->size, &root, err) < 0)
        return -1;
    manifest_add(target->manifest, target->object, &root);
    return 0;
}

static int save_head(const struct xen_memory *memory,
                     const struct xen_stream *stream,
                     const struct target *target, struct vn_err *err)
{
    (void)memory;
    return save_part(xen_stream_head(stream), target, err);
}

static int save_tail(const struct xen_memory *memory,
                     const struct xen_stream *stream,
                     const struct target *target, struct vn_err *err)
{
    (void)memory;
    return save_part(xen_stream_tail(stream), target, err);
}

static int save_emulator(const struct xen_memory *memory,
                         const struct xen_stream *stream,
                         const struct target *target, struct vn_err *err)
{
    const struct buf *emulator = xen_stream_emulator(stream);

    (void)memory;
    return emulator->size ? save_part(emulator, target, err) : 0;
}

int xen_memory_save(struct xen_memory *memory, const struct xen_stream *stream,
                    const char *vm, struct store_writer *writer,
                    const json_t *parent, json_t *manifest, struct vn_err *err)
{
    static const struct {
        char *(*name)(const char *vm);
        save_fn *save;
    } objects[] = {
        {xen_object_memory, save_pages},      {xen_object_types, save_types},
        {xen_object_head, save_head},         {xen_object_tail, save_tail},
        {xen_object_emulator, save_emulator},
    };

    clear_p2m(memory, stream);
    for (size_t i = 0; i < VN_COUNT(objects); i++) {
        vn_auto(free) char *object = objects[i].name(vm);
        const struct target target = {writer, parent, manifest, object};

        if (objects[i].save(memory, stream, &target, err) < 0)
            return vn_wrap(err, "object '%s'", object);
    }
    return 0;
}
