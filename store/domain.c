#include "store/store_internal.h"

/*
 * Domains: tenants of one store who share no page.
 *
 * Deduplication tells who uses it that a page is there already, by what it
 * costs to put it. So it ends at the bounds of a domain: the ids of pages are
 * made with a key of the domain (ident.c), one content has another id in each,
 * and index, packs and commits need to know no more than that. Nodes of maps
 * hold ids of pages, so they differ too. Fingerprints are the same in all
 * domains: they are only held against a parent's, and an image of another
 * domain is no parent.
 *
 * A domain's name is kept where people look, in a snapshot's manifest; its tag
 * where programs do, in the roots of maps and in the packs. There is no list of
 * domains: a name is as good as any other, and what nobody names is of the
 * store's own domain, whose tag is 0.
 *
 * Not hidden: names, numbers and sizes of snapshots, from who may list them;
 * how much the store holds together; how long it takes to write beside others.
 */

#include "common/jsonx.h"

#include <string.h>

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

int store_domain_check(const char *name, struct vn_err *err)
{
    size_t len = strlen(name);
    bool wrong =
        len == 0 || len > STORE_DOMAIN_MAX || name[0] == '-' || name[0] == '.';

    for (size_t i = 0; !wrong && i < len; i++)
        wrong = !is_name_char(name[i]);
    if (!wrong)
        return 0;
    return vn_fail(err, VN_E_FORMAT,
                   "'%.64s' is no name of a domain: 1 to %u of letters, "
                   "digits, '.', '_' and '-', not beginning with '.' or '-'",
                   name, STORE_DOMAIN_MAX);
}

int store_domain_tag(const struct store *store, const char *name, uint64_t *ret,
                     struct vn_err *err)
{
    if (name && store_domain_check(name, err) < 0)
        return -1;
    *ret = name ? ident_domain_tag(&store->ident, name) : 0;
    return 0;
}

const char *manifest_domain(const json_t *manifest)
{
    return json_string_value(
        json_object_get(json_object_get(manifest, "meta"), "domain"));
}

void manifest_set_domain(json_t *manifest, const char *name)
{
    json_t *meta = json_object_get(manifest, "meta");

    if (name)
        json_object_set_new(meta, "domain", json_string(name));
    else
        json_object_del(meta, "domain");
}

int domain_check_manifest(const struct store *store, const json_t *manifest,
                          struct vn_err *err)
{
    json_t *objects = json_object_get(manifest, "objects");
    const char *name = manifest_domain(manifest);
    struct map_root root;
    const char *object;
    json_t *entry;
    uint64_t tag;

    if (store_domain_tag(store, name, &tag, err) < 0)
        return -1;
    json_object_foreach (objects, object, entry) {
        if (manifest_parse_root(entry, &root, err) < 0)
            return -1;
        if (root.domain != tag)
            return vn_fail(err, VN_E_FORMAT,
                           "object '%.200s' is not of %s%s, but the snapshot "
                           "is",
                           object, name ? "domain " : "the store's domain",
                           name ? name : "");
    }
    return 0;
}

/* ---- packs ------------------------------------------------------------ */

/* What the directory says, where there is one. */
static int ask_directory(struct store *store, uint64_t pack_id, uint64_t *ret,
                         struct vn_err *err)
{
    struct pack pack;
    char damage[128];
    uint64_t size;

    if (engine_size(store->engine, pack_id, &size, err) < 0 ||
        pack_read_ends(store->engine, pack_id, size, &pack, damage, err) < 0)
        return -1;
    *ret = pack.domain;
    pack_done(&pack);
    return 0;
}

/* The version in the header, and the tag beside it; 0: it is damaged. */
static int ask_header(struct store *store, uint64_t pack_id, uint64_t *ret,
                      unsigned *ret_version, struct vn_err *err)
{
    uint8_t header[PACK_HEADER_SIZE];

    if (engine_read(store->engine, pack_id, 0, header, sizeof(header), err) < 0)
        return -1;
    *ret_version = pack_header_version(header, ret);
    return 0;
}

int domain_guess(struct store *store, uint64_t pack_id,
                 uint64_t ret[DOMAIN_GUESSES_MAX], size_t *ret_count,
                 struct vn_err *err)
{
    struct vn_err why = VN_ERR_INIT;
    uint64_t told = 0;
    unsigned version = 0;
    bool knows;

    knows = ask_header(store, pack_id, &told, &version, &why) == 0;
    ret[0] = told;
    *ret_count = 1;
    if (knows && version > 0)
        return 0;
    if ((knows || chunk_is_damage(&why)) &&
        ask_directory(store, pack_id, &ret[0], &why) == 0)
        return 0;
    if (!chunk_is_damage(&why)) {
        *err = why;
        return -1;
    }
    /* Neither is whole: none, or what stands in the header. */
    ret[0] = 0;
    ret[1] = told;
    *ret_count = told ? 2 : 1;
    return 0;
}
