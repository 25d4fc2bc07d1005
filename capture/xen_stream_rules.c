/*
 * What records of a saved domain may be: which exist in which type of domain,
 * in what order, of what lengths, with what inside. The parser asks for every
 * record; the same rules hold for parts that come back from a snapshot, whose
 * writer may have been anybody.
 *
 * A record is checked as far as Xen's specification says what is in it. What a
 * blob for the hypervisor holds (HVM_CONTEXT, a vCPU's context) is checked by
 * the hypervisor.
 */

#include "capture/xen_stream_internal.h"

#include "common/cursor.h"

#define BOTH (XEN_DOMAIN_PV | XEN_DOMAIN_HVM)

/* vcpu_guest_context of 32 and of 64 bits */
#define VCPU_BASIC_32      2800u
#define VCPU_BASIC_64      5168u
#define VCPU_EXTENDED_MAX  128u
#define VCPU_XSAVE_MIN     16u
#define VCPU_MSR_SIZE      16u
#define CPUID_LEAF_SIZE    24u
#define MSR_ENTRY_SIZE     16u
#define HVM_PARAM_SIZE     16u
#define EMULATOR_ID_MAX    2u /* unknown, QEMU traditional, QEMU */
#define EMULATOR_HEAD_SIZE 8u

struct rule {
    const char *name;
    uint8_t domains; /* enum xen_domain_type; 0: refused */
    bool many;       /* may come more than once */
    enum xen_part part;
    uint32_t min, max; /* length of the body */
};

#define TAIL_MAX XEN_PARTS_MAX

static const struct rule rules_of[XC_RECORDS] = {
    [XC_END] = {"END", BOTH, false, XEN_PART_END, 0, 0},
    [XC_PAGE_DATA] = {"PAGE_DATA", BOTH, true, XEN_PART_MEMORY, 16,
                      XEN_RECORD_MAX},
    [XC_PV_INFO] = {"X86_PV_INFO", XEN_DOMAIN_PV, false, XEN_PART_STATIC, 8, 8},
    [XC_PV_P2M_FRAMES] = {"X86_PV_P2M_FRAMES", XEN_DOMAIN_PV, false,
                          XEN_PART_START, 16, 8 + 8 * XEN_P2M_FRAMES_MAX},
    [XC_PV_VCPU_BASIC] = {"X86_PV_VCPU_BASIC", XEN_DOMAIN_PV, true,
                          XEN_PART_TAIL, 8 + VCPU_BASIC_32, 8 + VCPU_BASIC_64},
    [XC_PV_VCPU_EXTENDED] = {"X86_PV_VCPU_EXTENDED", XEN_DOMAIN_PV, true,
                             XEN_PART_TAIL, 8, 8 + VCPU_EXTENDED_MAX},
    [XC_PV_VCPU_XSAVE] = {"X86_PV_VCPU_XSAVE", XEN_DOMAIN_PV, true,
                          XEN_PART_TAIL, 8, TAIL_MAX},
    [XC_SHARED_INFO] = {"SHARED_INFO", XEN_DOMAIN_PV, false, XEN_PART_TAIL,
                        XEN_PAGE_SIZE, XEN_PAGE_SIZE},
    [XC_TSC_INFO] = {"X86_TSC_INFO", BOTH, false, XEN_PART_TAIL, 24, 24},
    [XC_HVM_CONTEXT] = {"HVM_CONTEXT", XEN_DOMAIN_HVM, false, XEN_PART_TAIL, 1,
                        TAIL_MAX},
    [XC_HVM_PARAMS] = {"HVM_PARAMS", XEN_DOMAIN_HVM, false, XEN_PART_TAIL, 8,
                       TAIL_MAX},
    [XC_TOOLSTACK] = {"TOOLSTACK", 0, false, XEN_PART_TAIL, 0, 0},
    [XC_PV_VCPU_MSRS] = {"X86_PV_VCPU_MSRS", XEN_DOMAIN_PV, true, XEN_PART_TAIL,
                         8, TAIL_MAX},
    [XC_VERIFY] = {"VERIFY", 0, false, XEN_PART_END, 0, 0},
    [XC_CHECKPOINT] = {"CHECKPOINT", BOTH, false, XEN_PART_END, 0, 0},
    [XC_CHECKPOINT_DIRTY_PFN_LIST] = {"CHECKPOINT_DIRTY_PFN_LIST", 0, false,
                                      XEN_PART_END, 0, 0},
    [XC_STATIC_DATA_END] = {"STATIC_DATA_END", BOTH, false, XEN_PART_STATIC, 0,
                            0},
    [XC_CPUID_POLICY] = {"X86_CPUID_POLICY", BOTH, false, XEN_PART_STATIC,
                         CPUID_LEAF_SIZE, XEN_PARTS_MAX},
    [XC_MSR_POLICY] = {"X86_MSR_POLICY", BOTH, false, XEN_PART_STATIC,
                       MSR_ENTRY_SIZE, XEN_PARTS_MAX},
};

enum xen_part xen_rules_part(uint32_t type)
{
    assert(type < XC_RECORDS);
    return rules_of[type].part;
}

const char *xen_rules_name(uint32_t type)
{
    assert(type < XC_RECORDS);
    return rules_of[type].name;
}

bool xen_rules_seen(const struct xen_rules *rules, enum xc_record type)
{
    return rules->seen & 1u << type;
}

/* The bit of a vCPU's record in xen_rules.vcpus. */
static uint8_t vcpu_bit(uint32_t type)
{
    return (uint8_t)(1u << (type == XC_PV_VCPU_MSRS ? 3 : type & 3));
}

/* ---- place and length -------------------------------------------------- */

static int check_known(const struct xen_rules *r, uint32_t type,
                       struct vn_err *err)
{
    if (type >= XC_RECORDS)
        return vn_fail(err, VN_E_UNSUPPORTED, "unknown record 0x%" PRIx32,
                       type);
    if (!rules_of[type].domains)
        return vn_fail(err, VN_E_UNSUPPORTED, "a record %s",
                       rules_of[type].name);
    if (!(rules_of[type].domains & r->type))
        return vn_fail(err, VN_E_FORMAT, "%s in the stream of %s domain",
                       rules_of[type].name,
                       r->type == XEN_DOMAIN_PV ? "a PV" : "an HVM");
    return 0;
}

static int check_length(const struct rule *rule, uint32_t length,
                        struct vn_err *err)
{
    if (length >= rule->min && length <= rule->max)
        return 0;
    if (length > rule->max && rule->max >= 8 * XEN_P2M_FRAMES_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "%s of %" PRIu32 " bytes, more than %" PRIu32,
                       rule->name, length, rule->max);
    return vn_fail(err, VN_E_FORMAT,
                   "%s of %" PRIu32 " bytes, not %" PRIu32 " to %" PRIu32,
                   rule->name, length, rule->min, rule->max);
}

int xen_rules_complete(const struct xen_rules *r, struct vn_err *err)
{
    static const enum xc_record needed[] = {XC_PAGE_DATA, XC_SHARED_INFO,
                                            XC_HVM_CONTEXT, XC_HVM_PARAMS};

    for (size_t i = 0; i < VN_COUNT(needed); i++)
        if (rules_of[needed[i]].domains & r->type &&
            !xen_rules_seen(r, needed[i]))
            return vn_fail(err, VN_E_FORMAT, "the domain has no record %s",
                           rules_of[needed[i]].name);
    if (r->type == XEN_DOMAIN_PV && !(r->vcpus[0] & vcpu_bit(XC_PV_VCPU_BASIC)))
        return vn_fail(err, VN_E_FORMAT, "the domain has no context of vCPU 0");
    return 0;
}

static int check_place(const struct xen_rules *r, uint32_t type,
                       struct vn_err *err)
{
    const struct rule *rule = &rules_of[type];

    if (rule->part == XEN_PART_STATIC && r->version == 2 && type != XC_PV_INFO)
        return vn_fail(err, VN_E_FORMAT, "%s in a stream of version 2",
                       rule->name);
    if (!rule->many && xen_rules_seen(r, (enum xc_record)type))
        return vn_fail(err, VN_E_FORMAT, "%s twice", rule->name);
    if (rule->part < r->part || (rule->part == XEN_PART_STATIC &&
                                 xen_rules_seen(r, XC_STATIC_DATA_END)))
        return vn_fail(err, VN_E_FORMAT, "%s comes too late", rule->name);
    if (rule->part > XEN_PART_STATIC && !xen_rules_seen(r, XC_STATIC_DATA_END))
        return vn_fail(err, VN_E_FORMAT, "%s before STATIC_DATA_END",
                       rule->name);
    if (r->type != XEN_DOMAIN_PV)
        return 0;
    if (type == XC_STATIC_DATA_END && !xen_rules_seen(r, XC_PV_INFO))
        return vn_fail(err, VN_E_FORMAT, "the static data has no X86_PV_INFO");
    if (type == XC_PAGE_DATA && !xen_rules_seen(r, XC_PV_P2M_FRAMES))
        return vn_fail(err, VN_E_FORMAT, "%s before X86_PV_P2M_FRAMES",
                       rule->name);
    return 0;
}

int xen_rules_begin(struct xen_rules *rules, uint32_t type, uint32_t length,
                    struct vn_err *err)
{
    if (check_known(rules, type, err) < 0 ||
        check_place(rules, type, err) < 0 ||
        check_length(&rules_of[type], length, err) < 0)
        return -1;
    if (rules_of[type].part == XEN_PART_END &&
        xen_rules_complete(rules, err) < 0)
        return -1;
    rules->seen |= 1u << type;
    rules->part = rules_of[type].part;
    return 0;
}

/* ---- bodies ------------------------------------------------------------ */

static int check_pv_info(struct xen_rules *r, struct cursor *c,
                         struct vn_err *err)
{
    unsigned width = cursor_u8(c), levels = cursor_u8(c);
    uint16_t zero16 = cursor_le16(c);
    uint32_t zero32 = cursor_le32(c);

    if (zero16 || zero32)
        return vn_fail(err, VN_E_FORMAT, "reserved bits in X86_PV_INFO");
    if (!(width == 4 && levels == 3) && !(width == 8 && levels == 4))
        return vn_fail(err, VN_E_FORMAT,
                       "a PV domain of %u bytes a frame and %u levels of page "
                       "tables",
                       width, levels);
    r->width = width;
    return 0;
}

/* Entries 0 to `end` of the p2m lie in as many pages as are named. */
static int check_p2m_frames(struct xen_rules *r, struct cursor *c,
                            struct vn_err *err)
{
    uint32_t start = cursor_le32(c), end = cursor_le32(c);
    uint64_t count = cursor_left(c) / 8;

    if (start)
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "a p2m that begins at pfn 0x%" PRIx32, start);
    if (cursor_left(c) % 8 || count != end / (XEN_PAGE_SIZE / r->width) + 1)
        return vn_fail(err, VN_E_FORMAT,
                       "a p2m of pfns up to 0x%" PRIx32 " in %" PRIu64
                       " frames",
                       end, count);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t pfn = cursor_le64(c);

        if (pfn > end)
            return vn_fail(err, VN_E_FORMAT,
                           "p2m frame %" PRIu64 " is pfn 0x%" PRIx64
                           ", beyond the p2m",
                           i, pfn);
    }
    r->p2m_count = (uint64_t)end + 1;
    return 0;
}

/* The width is not known where only the tail is checked; the first vCPU then
 * says it for the others. */
static bool is_basic_size(struct xen_rules *r, size_t size)
{
    if (!r->width)
        r->width = size == VCPU_BASIC_64 ? 8 : 4;
    return size == (r->width == 8 ? VCPU_BASIC_64 : VCPU_BASIC_32);
}

/* u32 vCPU, u32 0, a blob. Xen tolerates empty ones (but a BASIC is needed). */
static int check_vcpu(struct xen_rules *r, uint32_t type, struct cursor *c,
                      struct vn_err *err)
{
    const char *name = rules_of[type].name;
    uint32_t vcpu = cursor_le32(c), zero = cursor_le32(c);
    size_t size = cursor_left(c);
    bool right = true;

    if (zero)
        return vn_fail(err, VN_E_FORMAT, "reserved bits in %s", name);
    if (vcpu >= XEN_VCPUS_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "%s of vCPU %" PRIu32 ", at most %u are allowed", name,
                       vcpu, XEN_VCPUS_MAX);
    if (r->vcpus[vcpu] & vcpu_bit(type))
        return vn_fail(err, VN_E_FORMAT, "%s of vCPU %" PRIu32 " twice", name,
                       vcpu);
    if (type == XC_PV_VCPU_BASIC)
        right = is_basic_size(r, size);
    else if (type == XC_PV_VCPU_XSAVE)
        right = !size || size >= VCPU_XSAVE_MIN;
    else if (type == XC_PV_VCPU_MSRS)
        right = size % VCPU_MSR_SIZE == 0;
    if (!right)
        return vn_fail(err, VN_E_FORMAT,
                       "%s of vCPU %" PRIu32 " with a context of %zu bytes",
                       name, vcpu, size);
    r->vcpus[vcpu] |= vcpu_bit(type);
    return 0;
}

/* u32 mode, u32 kHz, u64 ns, u32 incarnation, u32 0 */
static int check_tsc_info(struct cursor *c, struct vn_err *err)
{
    cursor_take(c, 20);
    if (cursor_le32(c))
        return vn_fail(err, VN_E_FORMAT, "reserved bits in X86_TSC_INFO");
    return 0;
}

/* u32 count, u32 0, count x {u64 index, u64 value} */
static int check_hvm_params(struct cursor *c, struct vn_err *err)
{
    uint32_t count = cursor_le32(c), zero = cursor_le32(c);

    if (zero)
        return vn_fail(err, VN_E_FORMAT, "reserved bits in HVM_PARAMS");
    if (cursor_left(c) != (uint64_t)count * HVM_PARAM_SIZE)
        return vn_fail(err, VN_E_FORMAT,
                       "HVM_PARAMS has %zu bytes for %" PRIu32 " parameters",
                       cursor_left(c), count);
    return 0;
}

static int check_multiple(uint32_t type, uint32_t length, uint32_t size,
                          struct vn_err *err)
{
    if (length % size)
        return vn_fail(err, VN_E_FORMAT,
                       "%s of %" PRIu32 " bytes, not a multiple of %" PRIu32,
                       rules_of[type].name, length, size);
    return 0;
}

int xen_rules_body(struct xen_rules *rules, uint32_t type, const uint8_t *body,
                   uint32_t length, struct vn_err *err)
{
    struct cursor c = cursor_of(body, length);

    switch ((enum xc_record)type) {
    case XC_PV_INFO:
        return check_pv_info(rules, &c, err);
    case XC_PV_P2M_FRAMES:
        return check_p2m_frames(rules, &c, err);
    case XC_PV_VCPU_BASIC:
    case XC_PV_VCPU_EXTENDED:
    case XC_PV_VCPU_XSAVE:
    case XC_PV_VCPU_MSRS:
        return check_vcpu(rules, type, &c, err);
    case XC_TSC_INFO:
        return check_tsc_info(&c, err);
    case XC_HVM_PARAMS:
        return check_hvm_params(&c, err);
    case XC_CPUID_POLICY:
        return check_multiple(type, length, CPUID_LEAF_SIZE, err);
    case XC_MSR_POLICY:
        return check_multiple(type, length, MSR_ENTRY_SIZE, err);
    default:
        return 0; /* empty, or a blob of a checked length */
    }
}

int xen_rules_padding(const uint8_t *padding, size_t size, struct vn_err *err)
{
    for (size_t i = 0; i < size; i++)
        if (padding[i])
            return vn_fail(err, VN_E_FORMAT,
                           "the record's padding is not zero");
    return 0;
}

/* ---- the device model's records ---------------------------------------- */

/* Keys become paths in xenstore: relative, of its characters only. */
static bool is_relative_key(const char *key)
{
    size_t size = strlen(key);

    return size > 0 && key[0] != '/' && key[size - 1] != '/' &&
           strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                       "0123456789-/_@") == size;
}

/* Pairs of texts that end in NUL: key, value, key, value, ... */
static int check_xenstore_data(struct cursor *c, struct vn_err *err)
{
    bool is_key = true;

    while (cursor_left(c)) {
        const uint8_t *text = c->data + c->offset;
        const uint8_t *end = memchr(text, '\0', cursor_left(c));

        if (!end)
            return vn_fail(err, VN_E_FORMAT,
                           "EMULATOR_XENSTORE_DATA does not end in NUL");
        if (is_key && !is_relative_key((const char *)text))
            return vn_fail(err, VN_E_FORMAT,
                           "EMULATOR_XENSTORE_DATA has a key that is no "
                           "relative path");
        cursor_take(c, (size_t)(end - text) + 1);
        is_key = !is_key;
    }
    if (!is_key)
        return vn_fail(err, VN_E_FORMAT,
                       "EMULATOR_XENSTORE_DATA has a key without a value");
    return 0;
}

int xen_rules_emulator(uint32_t type, const uint8_t *body, uint32_t length,
                       struct vn_err *err)
{
    struct cursor c = cursor_of(body, length);
    uint32_t id = cursor_le32(&c);

    cursor_le32(&c); /* its index */
    if (c.failed)
        return vn_fail(err, VN_E_FORMAT,
                       "a device model's record of %" PRIu32
                       " bytes, less than %u",
                       length, EMULATOR_HEAD_SIZE);
    if (id > EMULATOR_ID_MAX)
        return vn_fail(err, VN_E_UNSUPPORTED, "device model %" PRIu32, id);
    return type == XL_EMULATOR_XENSTORE_DATA ? check_xenstore_data(&c, err) : 0;
}
