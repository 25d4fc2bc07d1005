#include "capture/xen_layout.h"

#include <assert.h>
#include <string.h>

/* Most windows of sparse memory: nothing but XTAB. */
static bool is_empty(const uint8_t *types, size_t count)
{
    return count == 0 || (types[0] == XEN_PAGE_XTAB &&
                          memcmp(types, types + 1, count - 1) == 0);
}

uint64_t xen_layout_next(struct xen_layout *layout, const uint8_t *types,
                         size_t count)
{
    uint64_t offset = layout->size;
    unsigned data = 0;

    assert(count <= XEN_WINDOW_PFNS);
    if (is_empty(types, count))
        return XEN_WINDOW_NONE;
    for (size_t i = 0; i < count; i++)
        data += xen_page_has_data(types[i]);
    if (!data)
        return XEN_WINDOW_NONE;
    layout->size += XEN_WINDOW_SIZE;
    layout->pages += data;
    return offset;
}
