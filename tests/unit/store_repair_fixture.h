#ifndef TESTS_UNIT_STORE_REPAIR_FIXTURE_H
#define TESTS_UNIT_STORE_REPAIR_FIXTURE_H

/* What the tests of verify and repair share: a store with something of each
 * kind in it, finding chunks in packs, and damaging bytes. */

#include "unit/store_gc_fixture.h"

#include "store/store_internal.h"

#include <fcntl.h>

enum { BIG = 700, SMALL = 40 }; /* pages; BIG has an inner node */

struct world {
    struct store_fixture *f;
    uint8_t *one; /* BIG pages: big@1; big@2 differs in page 600 */
    uint8_t *two;
    uint8_t *small; /* SMALL pages: small@1; small@2 was deleted */
    struct map_root big1;
    struct map_root big2;
};

UNUSED static void open_world(struct world *w)
{
    struct vn_err err = VN_ERR_INIT;

    w->f->store = store_open(w->f->path, &err);
    assert_made(w->f->store, &err);
}

UNUSED static void close_world(struct world *w)
{
    store_close(vn_steal(&w->f->store));
}

UNUSED static int world_setup(void **state)
{
    struct world *w = vn_alloc(sizeof(*w));

    /* Pages lie in packs in the order of their numbers. */
    setenv("VNSTORE_THREADS", "1", 1);
    if (fixture_setup((void **)&w->f) < 0)
        return -1;
    w->one = make_pages(1, BIG);
    w->two = make_pages(1, BIG);
    fill_random(w->two + 600 * PAGE, PAGE, 77);
    w->small = make_pages(9, SMALL);
    w->big1 = add_snapshot(w->f->store, "big@1", w->one, BIG, NULL);
    w->big2 = add_snapshot(w->f->store, "big@2", w->two, BIG, &w->big1);
    add_snapshot(w->f->store, "small@1", w->small, SMALL, NULL);
    add_snapshot(w->f->store, "small@2", w->small, SMALL / 2, NULL);
    delete_snapshot(w->f->store, "small@2");
    *state = w;
    return 0;
}

UNUSED static int world_teardown(void **state)
{
    struct world *w = *state;

    free(w->one);
    free(w->two);
    free(w->small);
    fixture_teardown((void **)&w->f);
    free(w);
    return 0;
}

/* All three snapshots read back. */
UNUSED static void assert_world_whole(struct world *w)
{
    assert_true(snapshot_equals(w->f->store, "big@1", w->one, BIG));
    assert_true(snapshot_equals(w->f->store, "big@2", w->two, BIG));
    assert_true(snapshot_equals(w->f->store, "small@1", w->small, SMALL));
}

/* ---- packs ------------------------------------------------------------ */

struct spot {
    uint64_t pack_id;
    uint64_t size; /* of the pack */
    struct pack_entry entry;
    unsigned kind;  /* looked for */
    unsigned which; /* that many are passed over */
    struct engine *engine;
    bool found;
    uint64_t packs[64];
    uint64_t sizes[64];
    size_t count;
};

static void list_pack(void *context, const struct engine_entry *entry)
{
    struct spot *s = context;
    size_t i = s->count;

    if (entry->partial || i == VN_COUNT(s->packs))
        return;
    for (; i > 0 && s->packs[i - 1] > entry->pack_id; i--) {
        s->packs[i] = s->packs[i - 1];
        s->sizes[i] = s->sizes[i - 1];
    }
    s->packs[i] = entry->pack_id;
    s->sizes[i] = entry->size;
    s->count++;
}

/* The chunk number `which` of that kind, in the order of packs. */
UNUSED static struct spot find_spot(struct world *w, unsigned kind,
                                    unsigned which)
{
    vn_auto(free) char *dir = vn_format("%s/packs", w->f->path);
    struct vn_err err = VN_ERR_INIT;
    struct spot s = {.kind = kind, .which = which};
    struct engine *engine = engine_file_open(dir, &err);

    assert_made(engine, &err);
    assert_ok(engine_list(engine, list_pack, &s, &err), &err);
    for (size_t i = 0; !s.found && i < s.count; i++) {
        struct pack pack;
        char damage[128];

        if (pack_read_ends(engine, s.packs[i], s.sizes[i], &pack, damage,
                           &err) < 0)
            continue;
        for (uint32_t k = 0; !s.found && k < pack.count; k++) {
            if (pack.entries[k].kind != kind || which-- > 0)
                continue;
            s.found = true;
            s.pack_id = s.packs[i];
            s.size = s.sizes[i];
            s.entry = pack.entries[k];
        }
        pack_done(&pack);
    }
    engine_close(engine);
    assert_true(s.found);
    return s;
}

/* Caller frees. */
UNUSED static char *pack_path(struct world *w, uint64_t pack_id)
{
    return vn_format("%s/packs/%09llx/%012llx.pack", w->f->path,
                     (unsigned long long)pack_id >> 12,
                     (unsigned long long)pack_id);
}

UNUSED static void flip_file(const char *path, uint64_t offset)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

UNUSED static void flip_pack(struct world *w, uint64_t pack_id, uint64_t offset)
{
    vn_auto(free) char *path = pack_path(w, pack_id);

    flip_file(path, offset);
}

/* Damage a chunk in its middle; the store is closed. */
UNUSED static void damage_spot(struct world *w, const struct spot *s)
{
    flip_pack(w, s->pack_id, s->entry.offset + s->entry.stored_size / 2);
}

/* ---- verify and repair ------------------------------------------------ */

/* What the last verify or repair said; for each world anew. */
static char all_findings[1 << 18];
static json_t *all_details;

UNUSED static void take_finding(void *context, const json_t *finding)
{
    size_t used = strlen(all_findings);

    (void)context;
    snprintf(all_findings + used, sizeof(all_findings) - used, "%s\n",
             json_string_value(json_object_get(finding, "sentence")));
    json_array_append_new(all_details, json_deep_copy(finding));
}

UNUSED static void forget_findings(void)
{
    all_findings[0] = 0;
    json_decref(all_details);
    all_details = json_array();
}

UNUSED static uint64_t verify_world(struct world *w, bool fast)
{
    struct store_verify_opts opts = {.detail = take_finding, .fast = fast};
    struct vn_err err = VN_ERR_INIT;
    uint64_t findings = 0;

    forget_findings();
    assert_ok(store_verify(w->f->store, &opts, &findings, &err), &err);
    assert_int_equal(json_array_size(all_details), findings);
    return findings;
}

/* The store is closed before and after. */
UNUSED static struct store_repair_counts repair_world(struct world *w,
                                                      bool rebuild)
{
    struct store_repair_opts opts = {.detail = take_finding,
                                     .rebuild_index = rebuild};
    struct store_repair_counts counts;
    struct vn_err err = VN_ERR_INIT;

    forget_findings();
    assert_ok(store_repair(w->f->path, &opts, &counts, &err), &err);
    assert_int_equal(json_array_size(all_details), counts.findings);
    return counts;
}

#define assert_said(text)                                                      \
    do {                                                                       \
        if (!strstr(all_findings, text))                                       \
            fail_msg("not said: '%s' in\n%s", text, all_findings);             \
    } while (0)

#endif
