#include "store/verify_internal.h"

/*
 * Verify: the file "verify.state", by which a run that was killed goes on.
 *
 *     {"format": 1, "store_id": hex, "began": seconds since 1970,
 *      "position": last pack read, "findings": so far,
 *      "well": [[pack, chunks that the index has in it], ...]}
 *
 * Only packs in which nothing was found are listed: the others are read again,
 * and so findings need not be kept. Packs never change and their numbers never
 * come back, so what was well when it was read is, but for the disk, well now;
 * the index may have changed, and passes 2 and 3 are not skipped. A pack
 * of which the index has another number of chunks than then is read again.
 *
 * The file is replaced as a whole every few seconds, at the end of a run that
 * fails, and less often where that
 * takes long: at most a fiftieth of the time goes there (130,000 packs, 1 TiB:
 * 3 MiB). That it cannot be written stops nothing. A repair removes it.
 */

#include "common/clock.h"
#include "common/fault.h"
#include "common/io.h"
#include "common/jsonx.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATE_FORMAT   1u
#define STATE_SIZE_MAX (1u << 30)
#define INTERVAL_MS    5000u
#define SHARE          50u

struct verify_well {
    uint64_t pack_id;
    uint64_t matched;
};

struct verify_state {
    char *path;
    struct verify_well *well; /* by rising number */
    size_t count;
    uint64_t interval_ns;
    uint64_t next_ns;
    bool ready; /* what there was is read: it may be replaced */
};

static char *state_path(const char *store_path)
{
    return vn_format("%s/verify.state", store_path);
}

/* ---- reading ---------------------------------------------------------- */

static int parse_well(struct verify_state *s, const json_t *list,
                      struct vn_err *err)
{
    size_t i;
    json_t *pair;

    s->well = vn_alloc((json_array_size(list) + 1) * sizeof(*s->well));
    json_array_foreach (list, i, pair) {
        json_int_t pack = json_integer_value(json_array_get(pair, 0));
        json_int_t matched = json_integer_value(json_array_get(pair, 1));

        if (pack <= 0 || matched < 0 ||
            (s->count > 0 && (uint64_t)pack <= s->well[s->count - 1].pack_id))
            return vn_fail(err, VN_E_FORMAT, "its packs are not in order");
        s->well[s->count++] = (struct verify_well){
            .pack_id = (uint64_t)pack, .matched = (uint64_t)matched};
    }
    return 0;
}

static int parse_state(struct verify *v, struct verify_state *s,
                       const json_t *json, struct vn_err *err)
{
    uint8_t store_id[STORE_UUID_SIZE];
    json_t *list;
    const char *hex;
    uint64_t format;

    if (jsonx_u64(json, "format", &format, err) < 0)
        return -1;
    if (format != STATE_FORMAT)
        return vn_fail(err, VN_E_VERSION, "it has format %llu",
                       (unsigned long long)format);
    if (jsonx_string(json, "store_id", &hex, err) < 0 ||
        io_unhex(hex, store_id, sizeof(store_id), err) < 0 ||
        jsonx_u64(json, "began", &v->counts.began_s, err) < 0 ||
        jsonx_array(json, "well", &list, err) < 0)
        return -1;
    if (memcmp(store_id, v->store->config.store_id, sizeof(store_id)) != 0)
        return vn_fail(err, VN_E_FORMAT, "it is of another store");
    return parse_well(s, list, err);
}

static int read_state(struct verify *v, struct verify_state *s,
                      struct vn_err *err)
{
    vn_auto(json) json_t *json = NULL;
    vn_auto(buf) struct buf text;

    buf_init(&text, STATE_SIZE_MAX);
    if (access(s->path, F_OK) < 0)
        return vn_fail(err, VN_E_NOT_FOUND,
                       "there is no run to go on with: no '%s'", s->path);
    if (io_read_file(s->path, &text, err) < 0)
        return -1;
    json = jsonx_parse((const char *)text.data, text.size,
                       "a run to go on "
                       "with",
                       err);
    if (!json || parse_state(v, s, json, err) < 0)
        return vn_wrap(err, "'%s' (verify without --resume begins anew)",
                       s->path);
    return 0;
}

int verify_state_open(struct verify *v, struct vn_err *err)
{
    struct verify_state *s = vn_alloc(sizeof(*s));
    uint64_t ms = v->opts->state_ms ? v->opts->state_ms : INTERVAL_MS;

    v->state = s;
    s->path = state_path(v->store->path);
    s->interval_ns = ms * VN_MS;
    v->counts.began_s = clock_wall_ns() / (1000 * VN_MS);
    if (v->opts->resume && read_state(v, s, err) < 0)
        return -1;
    s->ready = true;
    return 0;
}

bool verify_state_has(const struct verify_state *state, uint64_t pack_id,
                      uint64_t *ret_matched)
{
    size_t low = 0;
    size_t high = state ? state->count : 0;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (state->well[middle].pack_id < pack_id)
            low = middle + 1;
        else
            high = middle;
    }
    if (!state || low == state->count || state->well[low].pack_id != pack_id)
        return false;
    *ret_matched = state->well[low].matched;
    return true;
}

/* ---- writing ---------------------------------------------------------- */

/* What was well before counts as well until it was looked at. */
static json_t *well_json(const struct verify *v)
{
    const struct verify_state *s = v->state;
    json_t *list = json_array();

    for (size_t i = 0; i < v->pack_count; i++)
        if (v->packs[i].read && !v->packs[i].damaged)
            json_array_append_new(list,
                                  json_pack("[oo]", jsonx_int(v->packs[i].id),
                                            jsonx_int(v->packs[i].matched)));
    for (size_t i = 0; i < s->count; i++)
        if (s->well[i].pack_id > v->position)
            json_array_append_new(
                list, json_pack("[oo]", jsonx_int(s->well[i].pack_id),
                                jsonx_int(s->well[i].matched)));
    return list;
}

static char *state_text(const struct verify *v)
{
    vn_auto(json) json_t *json = json_object();
    char hex[2 * STORE_UUID_SIZE + 1];

    io_hex(v->store->config.store_id, STORE_UUID_SIZE, hex);
    json_object_set_new(json, "format", json_integer(STATE_FORMAT));
    json_object_set_new(json, "store_id", json_string(hex));
    json_object_set_new(json, "began", jsonx_int(v->counts.began_s));
    json_object_set_new(json, "position", jsonx_int(v->position));
    json_object_set_new(json, "findings", jsonx_int(v->findings));
    json_object_set_new(json, "well", well_json(v));
    return jsonx_text(json);
}

static void write_state(const struct verify *v)
{
    vn_auto(free) char *text = state_text(v);
    struct vn_err ignored = VN_ERR_INIT;

    if (io_replace_file(v->state->path, text, strlen(text), &ignored) < 0)
        return; /* then the next run begins anew */
    /* For "kill" and "stop": so far is noted down. */
    (void)fault_hit("store.verify.state");
}

void verify_state_note(struct verify *v)
{
    struct verify_state *s = v->state;
    uint64_t began = clock_now_ns();
    uint64_t pause;

    if (!s || began < s->next_ns)
        return;
    write_state(v);
    pause = (clock_now_ns() - began) * SHARE;
    s->next_ns =
        clock_now_ns() + (pause > s->interval_ns ? pause : s->interval_ns);
}

void verify_state_close(struct verify *v, bool ended)
{
    struct verify_state *s = v->state;

    if (!s)
        return;
    if (ended)
        verify_state_remove(v->store->path);
    else if (s->ready)
        write_state(v);
    free(s->well);
    free(s->path);
    free(s);
    v->state = NULL;
}

void verify_state_remove(const char *store_path)
{
    vn_auto(free) char *path = state_path(store_path);

    unlink(path);
}
