#ifndef TESTS_UNIT_STORE_DOMAIN_FIXTURE_H
#define TESTS_UNIT_STORE_DOMAIN_FIXTURE_H

/* What the tests of domains share: stores of both identities, images put into
 * a domain, and what is in the packs. */

#include "unit/store_repair_fixture.h"

static int domain_setup_as(void **state, enum store_identity identity)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_fixture *f;

    /* One thread: equal work makes equal packs. */
    setenv("VNSTORE_THREADS", "1", 1);
    if (fixture_setup(state) < 0)
        return -1;
    f = *state;
    store_close(vn_steal(&f->store));
    snprintf(f->path, sizeof(f->path), "%s/other", f->dir);
    if (store_init_as(f->path, identity, &err) < 0)
        return -1;
    f->store = store_open(f->path, &err);
    return f->store ? 0 : -1;
}

UNUSED static int domain_setup_blake3(void **state)
{
    return domain_setup_as(state, STORE_BLAKE3);
}

UNUSED static int domain_setup_sha256(void **state)
{
    return domain_setup_as(state, STORE_SHA256);
}

#define WITH_BOTH(test)                                                        \
    {#test " (blake3)", test, domain_setup_blake3, fixture_teardown, NULL},    \
    {                                                                          \
#test " (sha256)", test, domain_setup_sha256, fixture_teardown, NULL   \
    }

UNUSED static uint64_t tag_of(struct store *store, const char *domain)
{
    struct vn_err err = VN_ERR_INIT;
    uint64_t tag;

    assert_ok(store_domain_tag(store, domain, &tag, &err), &err);
    return tag;
}

/* store_image() of `count` pages in a domain; NULL: the store's. */
UNUSED static struct map_root put_in(struct store *store, const char *domain,
                                     const uint8_t *data, size_t count,
                                     const struct map_root *parent,
                                     struct store_counts *ret_counts)
{
    struct vn_err err = VN_ERR_INIT;
    struct store_writer *writer = store_writer_open_in(store, domain, &err);
    struct map_root root;

    assert_made(writer, &err);
    root = put_image(writer, data, count * PAGE, parent);
    assert_ok(store_writer_flush(writer, &err), &err);
    if (ret_counts)
        store_writer_counts(writer, ret_counts);
    store_writer_free(writer);
    assert_true(root.domain == tag_of(store, domain));
    return root;
}

UNUSED static void commit_in(struct store *store, const char *name,
                             const char *domain, const struct map_root *root)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = manifest_new(name, "files");

    manifest_add(manifest, "image", root);
    manifest_set_domain(manifest, domain);
    assert_ok(store_commit(store, manifest, &err), &err);
    json_decref(manifest);
}

/* Both; add_snapshot() in a domain. */
UNUSED static struct map_root add_in(struct store *store, const char *name,
                                     const char *domain, const uint8_t *data,
                                     size_t count,
                                     const struct map_root *parent)
{
    struct map_root root = put_in(store, domain, data, count, parent, NULL);

    commit_in(store, name, domain, &root);
    return root;
}

/* ---- packs ------------------------------------------------------------ */

/* Packs by what they say of themselves. */
struct census {
    struct store *store;
    struct engine_entry entries[4096];
    size_t entry_count;
    unsigned packs[PACK_VERSION_DOMAIN_ZSTD + 1]; /* with pages, by version */
    unsigned pages; /* in all of them, each of the domain its pack names */
    struct {
        uint64_t tag;
        unsigned packs, pages;
    } domains[8];
    size_t domain_count;
};

static void census_entry(void *context, const struct engine_entry *entry)
{
    struct census *c = context;

    assert_true(c->entry_count < VN_COUNT(c->entries));
    if (!entry->partial)
        c->entries[c->entry_count++] = *entry;
}

static void census_domain(struct census *c, uint64_t tag, unsigned pages)
{
    size_t i = 0;

    while (i < c->domain_count && c->domains[i].tag != tag)
        i++;
    if (i == c->domain_count) {
        assert_true(i < VN_COUNT(c->domains));
        c->domains[c->domain_count++].tag = tag;
    }
    c->domains[i].packs++;
    c->domains[i].pages += pages;
}

/* Every chunk of the pack is what its id says, in the domain it names. */
static void census_pack(struct census *c, const struct engine_entry *entry)
{
    uint8_t *data = vn_alloc(entry->size);
    uint8_t raw[MAP_LEAF_SIZE];
    struct vn_err err = VN_ERR_INIT;
    struct ident ident;
    struct pack pack;
    char damage[128];
    unsigned pages = 0;

    assert_ok(engine_read(c->store->engine, entry->pack_id, 0, data,
                          entry->size, &err),
              &err);
    assert_ok(pack_parse(data, entry->size, &pack, damage, &err), &err);
    assert_string_equal(damage, "");
    ident_in_domain(&c->store->ident, pack.domain, &ident);
    for (uint32_t i = 0; i < pack.count; i++) {
        const struct pack_entry *e = &pack.entries[i];

        if (e->kind > CHUNK_INNER) {
            assert_true(pack.domain == 0); /* manifests and tombstones */
            continue;
        }
        assert_ok(chunk_check(&ident, e, data + e->offset, raw, &err), &err);
        pages += e->kind == CHUNK_PAGE;
    }
    if (pages > 0) {
        c->packs[pack.version]++;
        c->pages += pages;
        census_domain(c, pack.domain, pages);
    }
    pack_done(&pack);
    free(data);
}

UNUSED static struct census *take_census(struct store *store)
{
    static struct census c;
    struct vn_err err = VN_ERR_INIT;

    c = (struct census){.store = store};
    assert_ok(engine_list(store->engine, census_entry, &c, &err), &err);
    for (size_t i = 0; i < c.entry_count; i++)
        census_pack(&c, &c.entries[i]);
    return &c;
}

UNUSED static unsigned census_pages(const struct census *c, const char *domain)
{
    uint64_t tag = tag_of(c->store, domain);

    for (size_t i = 0; i < c->domain_count; i++)
        if (c->domains[i].tag == tag)
            return c->domains[i].pages;
    return 0;
}

UNUSED static unsigned census_packs(const struct census *c, const char *domain)
{
    uint64_t tag = tag_of(c->store, domain);

    for (size_t i = 0; i < c->domain_count; i++)
        if (c->domains[i].tag == tag)
            return c->domains[i].packs;
    return 0;
}

#endif
