/*
 * Values of a VNE file: what every key and every text is held against,
 * whatever it means.
 */

#include "coord/vne_internal.h"

#include "common/io.h"

#include <stdlib.h>
#include <string.h>

#define KEY_LEN 40 /* of keys that are compared for a suggestion */

/* ---- keys --------------------------------------------------------------- */

static unsigned smallest(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;

    return least < c ? least : c;
}

/* Letters to insert, remove or change to make b of a (Levenshtein). */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[KEY_LEN + 1];
    size_t width = strlen(b);

    for (unsigned j = 0; j <= width; j++)
        row[j] = j;
    for (unsigned i = 0; a[i]; i++) {
        unsigned before = row[0]; /* the row above, one to the left */

        row[0] = i + 1;
        for (unsigned j = 0; j < width; j++) {
            unsigned above = row[j + 1];

            row[j + 1] = smallest(above + 1, row[j] + 1,
                                  before + (a[i] != b[j] ? 1 : 0));
            before = above;
        }
    }
    return row[width];
}

static const char *nearest(const struct vne_keys *keys, const char *word)
{
    const char *best = NULL;
    unsigned least = 3; /* two typing errors at most */

    if (strlen(word) > KEY_LEN)
        return NULL;
    for (size_t i = 0; i < VNE_KEYS_MAX && keys->names[i]; i++) {
        unsigned d = distance(word, keys->names[i]);

        if (d < least && d < strlen(keys->names[i])) {
            least = d;
            best = keys->names[i];
        }
    }
    return best;
}

static int fail_unknown(struct vne_reading *r, const struct vne_keys *keys,
                        const struct vne_node *key)
{
    const char *guess = nearest(keys, key->text);
    char list[256] = "";

    if (guess)
        return vne_value_fail(r, key, "unknown key '%.80s', did you mean '%s'?",
                              key->text, guess);
    for (size_t i = 0; i < VNE_KEYS_MAX && keys->names[i]; i++) {
        if (i)
            strcat(list, ", ");
        strcat(list, keys->names[i]);
    }
    return vne_value_fail(r, key, "unknown key '%.80s', %s may have: %s",
                          key->text, keys->what, list);
}

int vne_value_keys(struct vne_reading *r, const struct vne_keys *keys,
                   const struct vne_node *map,
                   const struct vne_node *values[VNE_KEYS_MAX])
{
    size_t lines[VNE_KEYS_MAX] = {0};

    memset(values, 0, VNE_KEYS_MAX * sizeof(values[0]));
    if (map->kind != VNE_MAP)
        return vne_value_fail(r, map, "%s must be written as keys with values",
                              keys->what);
    for (size_t i = 0; i + 1 < map->count; i += 2) {
        const struct vne_node *key = map->items[i];
        const struct vne_node *value = map->items[i + 1];
        size_t k = 0;

        while (k < VNE_KEYS_MAX && keys->names[k] &&
               strcmp(keys->names[k], key->text) != 0)
            k++;
        if (k == VNE_KEYS_MAX || !keys->names[k])
            return fail_unknown(r, keys, key);
        if (values[k])
            return vne_value_fail(r, key,
                                  "key '%s' was given before at line %zu",
                                  key->text, lines[k]);
        if (value->kind == VNE_SCALAR && value->null)
            return vne_value_fail(r, value, "key '%s' has no value", key->text);
        values[k] = value;
        lines[k] = key->line;
    }
    return 0;
}

int vne_value_need(struct vne_reading *r, const struct vne_keys *keys,
                   const struct vne_node *map, size_t key,
                   const struct vne_node *values[VNE_KEYS_MAX])
{
    if (!values[key])
        return vne_value_fail(r, map, "'%s' is missing in %s", keys->names[key],
                              keys->what);
    return 0;
}

/* ---- values ------------------------------------------------------------- */

const char *vne_value_borrow(struct vne_reading *r, const struct vne_node *node,
                             size_t max)
{
    if (node->kind != VNE_SCALAR) {
        vne_value_fail(r, node, "expected a text, found a %s",
                       node->kind == VNE_LIST ? "list" : "map");
        return NULL;
    }
    if (strlen(node->text) > max) {
        vne_value_fail(r, node, "a text of %zu bytes, %zu are allowed",
                       strlen(node->text), max);
        return NULL;
    }
    for (const char *p = node->text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 127) {
            vne_value_fail(r, node, "a control character in the text");
            return NULL;
        }
    }
    return node->text;
}

int vne_value_text(struct vne_reading *r, const struct vne_node *node,
                   size_t max, char **ret)
{
    const char *text;

    if (!node)
        return 0;
    text = vne_value_borrow(r, node, max);
    if (!text)
        return -1;
    if (*text)
        *ret = vn_strdup(text);
    return 0;
}

char *vne_value_name(struct vne_reading *r, const struct vne_node *node)
{
    const char *text = vne_value_borrow(r, node, VM_TEXT_MAX);

    if (!text)
        return NULL;
    if (vne_check_name(text, r->err) < 0) {
        vne_node_wrap(r->err, r->file, node);
        return NULL;
    }
    return vn_strdup(text);
}

int vne_value_path(struct vne_reading *r, const struct vne_node *node,
                   char **ret)
{
    vn_auto(json) json_t *encoded = NULL;
    vn_auto(free) char *path = NULL;
    const char *text;

    if (!node)
        return 0;
    text = vne_value_borrow(r, node, VM_TEXT_MAX);
    if (!text)
        return -1;
    if (!*text)
        return vne_value_fail(r, node, "the path is empty");
    path =
        text[0] == '/' ? vn_strdup(text) : vn_format("%s/%s", r->folder, text);
    if (strlen(path) > VM_TEXT_MAX)
        return vne_value_fail(r, node, "the path is longer than %d bytes",
                              VM_TEXT_MAX);
    encoded = json_string(path); /* it travels as JSON */
    if (!encoded)
        return vne_value_fail(r, node, "the path is not UTF-8");
    *ret = vn_steal(&path);
    return 0;
}

int vne_value_number(struct vne_reading *r, const struct vne_node *node,
                     const char *what, uint32_t max, uint32_t *ret)
{
    const char *text;
    unsigned long value;

    if (!node)
        return 0;
    text = vne_value_borrow(r, node, VNE_WORD_MAX);
    if (!text)
        return -1;
    value = strtoul(text, NULL, 10);
    if (!*text || text[strspn(text, "0123456789")] || strlen(text) > 10 ||
        value < 1 || value > max)
        return vne_value_fail(r, node,
                              "%s is '%.40s', want a number from 1 to %u", what,
                              text, max);
    *ret = (uint32_t)value;
    return 0;
}

int vne_value_memory(struct vne_reading *r, const struct vne_node *node,
                     uint64_t *ret)
{
    const uint64_t unit = 1u << 20;
    const char *text = vne_value_borrow(r, node, VNE_WORD_MAX);
    uint64_t bytes = 0;

    if (!text)
        return -1;
    if (io_parse_size(text, &bytes, r->err) < 0)
        return vne_node_wrap(r->err, r->file, node);
    if (bytes == 0 || bytes % unit || bytes > VM_MEMORY_MAX)
        return vne_value_fail(
            r, node, "memory is '%.40s', want whole MiB from 1M to 16T", text);
    *ret = bytes;
    return 0;
}

int vne_value_claim(struct vne_reading *r, const char *what, const char *text,
                    const struct vne_node *node)
{
    for (size_t i = 0; i < r->claim_count; i++)
        if (strcmp(r->claims[i].what, what) == 0 &&
            strcmp(r->claims[i].text, text) == 0)
            return vne_value_fail(r, node,
                                  "%s '%s' was given before at line %zu", what,
                                  text, r->claims[i].line);
    if (r->claim_count == r->claim_room) {
        r->claim_room = r->claim_room ? r->claim_room * 2 : 64;
        r->claims = reallocarray(r->claims, r->claim_room, sizeof(*r->claims));
        if (!r->claims)
            abort(); /* as many as there are hosts and NICs: bounded */
    }
    r->claims[r->claim_count++] =
        (struct vne_claim){.what = what, .text = text, .line = node->line};
    return 0;
}
