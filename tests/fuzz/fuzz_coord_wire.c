/* The deframer: whatever comes, in whatever pieces, is cut the same way. */

#include "coord/frame.h"

#include "common/auto.h"
#include "common/jsonx.h"

#include <stdlib.h>

#define LIMIT 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    unsigned frames;
    uint64_t bytes;
    int code;
};

/* Feed `data` in pieces of `piece` bytes. */
static struct outcome feed(const uint8_t *data, size_t size, size_t piece)
{
    struct outcome outcome = {.frames = 0};
    struct frame_reader reader;
    struct vn_err err = VN_ERR_INIT;

    frame_reader_init(&reader, LIMIT);
    for (size_t at = 0; at < size && !outcome.code; at += piece) {
        struct cursor in =
            cursor_of(data + at, size - at < piece ? size - at : piece);

        while (cursor_left(&in) && !outcome.code) {
            bool whole = false;

            if (frame_reader_feed(&reader, &in, &whole, &err) < 0) {
                outcome.code = err.code;
            } else if (whole) {
                vn_auto(json) json_t *message =
                    jsonx_parse((const char *)reader.body.data,
                                reader.body.size, "message", &err);

                (void)message;
                outcome.frames++;
                outcome.bytes += reader.body.size;
            }
            if (reader.body.size > LIMIT || reader.body.capacity > 2 * LIMIT)
                abort();
        }
    }
    frame_reader_done(&reader);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole = feed(data, size, size ? size : 1);
    struct outcome single = feed(data, size, 1);
    struct outcome seven = feed(data, size, 7);

    if (whole.bytes != single.bytes || whole.frames != single.frames ||
        whole.code != single.code || whole.frames != seven.frames ||
        whole.code != seven.code)
        abort();
    return 0;
}
