/*
 * A qcow2 image: its windows come in order and within the disk, and what they
 * hold together is bounded by the size of the file.
 */

#include "store/qcow2.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_bytes(void *context, uint64_t offset, void *data, size_t size,
                      struct vn_err *err)
{
    const struct qcow2_file *file = context;

    (void)err;
    if (offset > file->size || size > file->size - offset)
        abort(); /* the reader must not ask */
    memcpy(data, (const uint8_t *)file->context + offset, size);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qcow2_file bytes = {.context = (void *)(uintptr_t)data,
                               .size = size};
    const struct qcow2_file file = {
        .read = read_bytes, .context = &bytes, .size = size};
    struct vn_err err = VN_ERR_INIT;
    vn_auto(qcow2) struct qcow2_reader *reader = NULL;
    uint64_t end = 0;

    reader = qcow2_open(&file, &err);
    while (reader) {
        const uint8_t *window;
        uint64_t start;
        size_t n;

        if (qcow2_next(reader, &start, &window, &n, &err) < 0 || n == 0)
            break;
        if (start < end || start % QCOW2_WINDOW_SIZE || n > QCOW2_WINDOW_SIZE ||
            start + n > qcow2_size(reader))
            abort();
        end = start + n;
    }
    return 0;
}
