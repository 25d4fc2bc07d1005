/*
 * The head of a migration stream: magic, version, the configuration section
 * with the machine's name, and its subsections. Kept verbatim for restore.
 */

#include "capture/qemu_stream_internal.h"

#define STREAM_MAGIC   0x5145564du /* "QEVM" */
#define STREAM_VERSION 3u
#define PAGE_BITS      12u
#define UUID_SIZE      16u

static step_fn step_machine_size, step_machine, step_configuration;
static step_fn step_subsection_size, step_subsection, step_page_bits;
static step_fn step_capability_count, step_capability_size, step_capability;
static step_fn step_uuid;

/* be32 magic, be32 version */
int qemu_stream_step_header(struct qemu_stream *s, const uint8_t *p,
                            struct vn_err *err)
{
    if (be32(p) != STREAM_MAGIC)
        return fail_at(s, err, VN_E_FORMAT, "not a QEMU migration stream");
    if (be32(p + 4) != STREAM_VERSION)
        return fail_at(s, err, VN_E_VERSION,
                       "migration stream of version %" PRIu32 ", not %u",
                       be32(p + 4), STREAM_VERSION);
    return expect(s, step_machine_size, 5);
}

/* u8 type, be32 length */
static int step_machine_size(struct qemu_stream *s, const uint8_t *p,
                             struct vn_err *err)
{
    uint32_t size = be32(p + 1);

    if (p[0] != SECTION_CONFIGURATION)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "no configuration section (type 0x%02x): the machine "
                       "type is unknown",
                       p[0]);
    if (!size || size > QEMU_MACHINE_NAME_MAX)
        return fail_at(s, err, VN_E_FORMAT, "machine name of %" PRIu32 " bytes",
                       size);
    return expect(s, step_machine, size);
}

static int step_machine(struct qemu_stream *s, const uint8_t *p,
                        struct vn_err *err)
{
    if (!is_plain(p, s->need))
        return fail_at(s, err, VN_E_FORMAT,
                       "machine name with unprintable bytes");
    memcpy(s->machine, p, s->need);
    return expect(s, step_configuration, 1);
}

/* A further subsection, or the type of the first section after the head. */
static int step_configuration(struct qemu_stream *s, const uint8_t *p,
                              struct vn_err *err)
{
    if (p[0] == SECTION_SUBSECTION)
        return expect(s, step_subsection_size, 1);
    s->in_head = false;
    s->head.size--; /* that type is not part of the head */
    if (buf_check(&s->head, "the stream's configuration", err) < 0)
        return -1;
    return qemu_stream_step_section(s, p, err);
}

static int step_subsection_size(struct qemu_stream *s, const uint8_t *p,
                                struct vn_err *err)
{
    if (!p[0])
        return fail_at(s, err, VN_E_FORMAT, "subsection without a name");
    return expect(s, step_subsection, (size_t)p[0] + 4);
}

/* name, be32 version */
static int step_subsection(struct qemu_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    static const struct {
        const char *name;
        enum subsection bit;
        step_fn *step;
        size_t need;
    } known[] = {
        {"configuration/target-page-bits", SUBSECTION_PAGE_BITS, step_page_bits,
         4},
        {"configuration/capabilities", SUBSECTION_CAPABILITIES,
         step_capability_count, 4},
        {"configuration/uuid", SUBSECTION_UUID, step_uuid, UUID_SIZE},
    };
    size_t size = s->need - 4;
    uint32_t version = be32(p + size);

    if (!is_plain(p, size))
        return fail_at(s, err, VN_E_FORMAT,
                       "subsection name with unprintable bytes");
    for (size_t i = 0; i < VN_COUNT(known); i++) {
        if (strlen(known[i].name) != size || memcmp(known[i].name, p, size))
            continue;
        if (version != 1)
            return fail_at(s, err, VN_E_UNSUPPORTED,
                           "subsection '%s' of version %" PRIu32, known[i].name,
                           version);
        if (s->subsections_seen & known[i].bit)
            return fail_at(s, err, VN_E_FORMAT, "subsection '%s' twice",
                           known[i].name);
        s->subsections_seen |= known[i].bit;
        return expect(s, known[i].step, known[i].need);
    }
    return fail_at(s, err, VN_E_UNSUPPORTED, "unknown subsection '%.*s'",
                   (int)size, (const char *)p);
}

static int step_page_bits(struct qemu_stream *s, const uint8_t *p,
                          struct vn_err *err)
{
    if (be32(p) != PAGE_BITS)
        return fail_at(s, err, VN_E_UNSUPPORTED,
                       "pages of 2^%" PRIu32 " bytes, not 2^%u", be32(p),
                       PAGE_BITS);
    return expect(s, step_configuration, 1);
}

/* Every capability written here changes the stream: none is accepted. */
static int step_capability_count(struct qemu_stream *s, const uint8_t *p,
                                 struct vn_err *err)
{
    (void)err;
    if (be32(p) == 0)
        return expect(s, step_configuration, 1);
    return expect(s, step_capability_size, 1);
}

static int step_capability_size(struct qemu_stream *s, const uint8_t *p,
                                struct vn_err *err)
{
    if (!p[0])
        return fail_at(s, err, VN_E_FORMAT, "capability without a name");
    return expect(s, step_capability, p[0]);
}

static int step_capability(struct qemu_stream *s, const uint8_t *p,
                           struct vn_err *err)
{
    if (!is_plain(p, s->need))
        return fail_at(s, err, VN_E_FORMAT,
                       "capability name with unprintable bytes");
    return fail_at(s, err, VN_E_UNSUPPORTED,
                   "the stream uses the capability '%.*s'", (int)s->need,
                   (const char *)p);
}

static int step_uuid(struct qemu_stream *s, const uint8_t *p,
                     struct vn_err *err)
{
    (void)p;
    (void)err;
    return expect(s, step_configuration, 1);
}

static int no_blocks(void *context, const struct qemu_block *blocks,
                     unsigned count, struct vn_err *err)
{
    (void)context, (void)blocks, (void)count, (void)err;
    return 0;
}

static int no_page(void *context, unsigned block, uint64_t offset,
                   const void *page, struct vn_err *err)
{
    (void)context, (void)block, (void)offset, (void)page, (void)err;
    return 0;
}

int qemu_stream_check_head(const void *data, size_t size,
                           char ret_machine[QEMU_MACHINE_NAME_MAX + 1],
                           struct vn_err *err)
{
    const struct qemu_stream_sink none = {no_blocks, no_page, NULL};
    vn_auto(qemu_stream) struct qemu_stream *s = qemu_stream_new(&none);

    if (qemu_stream_feed(s, data, size, err) < 0)
        return vn_wrap(err, "the stream's head");
    if (s->step != step_configuration || s->have)
        return vn_fail(err, VN_E_FORMAT,
                       "the stream's head does not end where its "
                       "configuration ends");
    memcpy(ret_machine, s->machine, sizeof(s->machine));
    return 0;
}
