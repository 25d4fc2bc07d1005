/*
 * A domain's memory and the parts of its stream into the store.
 *
 * Pages that follow each other in the image (capture/xen_layout.h) and in our
 * memory are put in one call, as the store hashes many at a time faster than
 * one by one. Holes and zeros are not put at all. The layout is made twice:
 * for the image's size, and to put pages; it costs a look at each entry.
 *
 * The parent is passed as it is. Behind a window that it does not have, or has
 * in excess, all pages are at other places than in it; they are then found by
 * their identity, as those of any other image, which costs a hash of each.
 *
 * Of a PV domain's p2m the entries are zeroed first:
 * they are machine frame numbers of this host, which differ after each restore
 * and are written anew by it, so they would only spoil deduplication.
 */

#include "capture/xen_memory_internal.h"

#include "capture/xen_layout.h"
#include "capture/xen_objects.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RUN_PAGES    4096u /* 16 MiB in a call at most */
#define TYPES_PIECE  (1u << 20)
#define LEAF_WINDOWS (XEN_LEAF_PFNS / XEN_WINDOW_PFNS)

static_assert(XEN_LEAF_PFNS % XEN_WINDOW_PFNS == 0, "a leaf is whole windows");
static_assert(TYPES_PIECE % XEN_LEAF_PFNS == 0, "a piece is whole leaves");

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

/* ---- the layout -------------------------------------------------------- */

static void fill_types(const uintptr_t *leaf, uint8_t *types, size_t count)
{
    for (size_t i = 0; i < count; i++)
        types[i] = (uint8_t)xen_entry_type(leaf[i]);
}

/* Take the next leaf; the offsets of its windows in the image. */
static void lay_leaf(struct xen_layout *layout, const uintptr_t *leaf,
                     uint64_t ret[LEAF_WINDOWS])
{
    uint8_t types[XEN_WINDOW_PFNS];

    for (size_t i = 0; i < LEAF_WINDOWS; i++) {
        fill_types(leaf + i * XEN_WINDOW_PFNS, types, XEN_WINDOW_PFNS);
        ret[i] = xen_layout_next(layout, types, XEN_WINDOW_PFNS);
    }
}

/* The image's size. */
static uint64_t measure(const struct xen_memory *memory)
{
    struct xen_layout layout = {0};
    uint64_t offsets[LEAF_WINDOWS];

    for (uint64_t i = 0; i < memory->leaf_end; i++)
        if (memory->leaves[i])
            lay_leaf(&layout, memory->leaves[i], offsets);
    assert(layout.pages == memory->counts.pages);
    return layout.size;
}

/* ---- pages ------------------------------------------------------------- */

struct run {
    uint64_t offset;
    const uint8_t *data;
    size_t size;
};

static int put_run(struct image_writer *image, struct run *run,
                   struct vn_err *err)
{
    size_t size = run->size;

    run->size = 0;
    return size ? image_writer_put(image, run->offset, run->data, size, err)
                : 0;
}

static int put_page(struct image_writer *image, struct run *run,
                    uint64_t offset, const uint8_t *slot, struct vn_err *err)
{
    if (run->size && run->size < RUN_PAGES * XEN_PAGE_SIZE &&
        offset == run->offset + run->size && slot == run->data + run->size) {
        run->size += XEN_PAGE_SIZE;
        return 0;
    }
    if (put_run(image, run, err) < 0)
        return -1;
    *run = (struct run){offset, slot, XEN_PAGE_SIZE};
    return 0;
}

/* The window that lies at `offset`; none of its pages has bytes if it lies
 * nowhere. */
static int put_window(struct image_writer *image, struct run *run,
                      uint64_t offset, const uintptr_t *entries,
                      struct vn_err *err)
{
    for (size_t i = 0; i < XEN_WINDOW_PFNS; i++) {
        const uint8_t *slot = xen_entry_slot(entries[i]);

        if (!slot)
            continue;
        assert(offset != XEN_WINDOW_NONE);
        if (put_page(image, run, offset + i * XEN_PAGE_SIZE, slot, err) < 0)
            return -1;
    }
    return 0;
}

static int put_pages(const struct xen_memory *memory,
                     struct image_writer *image, struct vn_err *err)
{
    struct xen_layout layout = {0};
    struct run run = {0};

    for (uint64_t i = 0; i < memory->leaf_end; i++) {
        const uintptr_t *leaf = memory->leaves[i];
        uint64_t offsets[LEAF_WINDOWS];

        if (!leaf)
            continue;
        lay_leaf(&layout, leaf, offsets);
        for (size_t j = 0; j < LEAF_WINDOWS; j++)
            if (put_window(image, &run, offsets[j], leaf + j * XEN_WINDOW_PFNS,
                           err) < 0)
                return -1;
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
    vn_auto(image_writer) struct image_writer *image =
        open_image(target, measure(memory), err);

    (void)stream;
    if (!image || put_pages(memory, image, err) < 0)
        return -1;
    return finish_image(target, image, err);
}

/* The types of the `count` pfns from `pfn` on. */
static void collect_types(const struct xen_memory *memory, uint64_t pfn,
                          uint8_t *types, size_t count)
{
    memset(types, XEN_PAGE_XTAB, count);
    for (size_t i = 0; i < count; i += XEN_LEAF_PFNS) {
        const uintptr_t *leaf = memory->leaves[(pfn + i) / XEN_LEAF_PFNS];
        size_t n = count - i < XEN_LEAF_PFNS ? count - i : XEN_LEAF_PFNS;

        if (leaf)
            fill_types(leaf, types + i, n);
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

        collect_types(memory, pfn, types, count);
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
