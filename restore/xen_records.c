#include "restore/xen_records.h"

#include "common/cursor.h"

#include <inttypes.h>
#include <stdlib.h>

/* Four records for each of 8192 vCPUs, the most that Xen has, and TSC_INFO
 * and SHARED_INFO. */
#define RECORDS_MAX (4u * 8192u + 2u)

struct record {
    uint64_t rank;       /* its place; no two have the same */
    const uint8_t *data; /* with head and padding */
    size_t size;
};

/* One order for all types of domains, for they have TSC_INFO alone in common.
 * The body of a vCPU's record begins with its number. */
static int rank_of(uint32_t type, struct cursor *body, uint64_t *ret,
                   struct vn_err *err)
{
    uint64_t of_vcpu = 4 + 4 * (uint64_t)cursor_le32(body);

    switch (type) {
    case XEN_REC_TSC_INFO:
        *ret = 0;
        return 0;
    case XEN_REC_SHARED_INFO:
        *ret = 1;
        return 0;
    case XEN_REC_HVM_PARAMS:
        *ret = 2;
        return 0;
    case XEN_REC_HVM_CONTEXT:
        *ret = 3;
        return 0;
    case XEN_REC_PV_VCPU_BASIC:
        *ret = of_vcpu;
        return 0;
    case XEN_REC_PV_VCPU_EXTENDED:
        *ret = of_vcpu + 1;
        return 0;
    case XEN_REC_PV_VCPU_XSAVE:
        *ret = of_vcpu + 2;
        return 0;
    case XEN_REC_PV_VCPU_MSRS:
        *ret = of_vcpu + 3;
        return 0;
    default:
        return vn_fail(err, VN_E_UNSUPPORTED,
                       "a record of type 0x%" PRIx32 " behind the memory",
                       type);
    }
}

static int take(struct cursor *c, struct record *record, struct vn_err *err)
{
    uint32_t type, length;
    uint64_t padded;
    struct cursor body;

    record->data = c->data + c->offset;
    type = cursor_le32(c);
    length = cursor_le32(c);
    padded = ((uint64_t)length + 7) & ~7ull;
    if (padded > cursor_left(c))
        return vn_fail(err, VN_E_FORMAT, "a record is cut off");
    body = cursor_of(record->data + 8, length);
    cursor_take(c, (size_t)padded);
    record->size = 8 + (size_t)padded;
    return rank_of(type, &body, &record->rank, err);
}

static int compare(const void *a, const void *b)
{
    const struct record *x = a, *y = b;

    return (x->rank > y->rank) - (x->rank < y->rank);
}

int xen_records_order_tail(const void *data, size_t size, struct buf *ret,
                           struct vn_err *err)
{
    vn_auto(free) struct record *records =
        vn_alloc(RECORDS_MAX * sizeof(*records));
    struct cursor c = cursor_of(data, size);
    size_t count = 0;

    while (cursor_left(&c)) {
        if (count == RECORDS_MAX)
            return vn_fail(err, VN_E_LIMIT,
                           "more than %u records behind the "
                           "memory",
                           RECORDS_MAX);
        if (take(&c, &records[count++], err) < 0)
            return -1;
    }
    qsort(records, count, sizeof(*records), compare);
    for (size_t i = 0; i < count; i++)
        buf_put(ret, records[i].data, records[i].size);
    return buf_check(ret, "the records behind the memory", err);
}
