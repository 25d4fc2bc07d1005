/* verify.state, by which a verify goes on: what is taken is written and read
 * again the same. The store's id is of 0xaa bytes. */

#include "store/verify_internal.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/vn-fuzz-XXXXXX";
static char path[64];

static void clean_up(void)
{
    unlink(path);
    rmdir(dir);
}

static void write_file(const uint8_t *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
}

/* How many of the packs 1 to 64 are well, and of how many chunks. */
static uint64_t sum_well(const struct verify *v)
{
    uint64_t sum = 0;
    uint64_t matched;

    for (uint64_t pack = 1; pack <= 64; pack++)
        if (verify_state_has(v->state, pack, &matched))
            sum = sum * 31 + pack + 7 * matched;
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct store_verify_opts opts = {.resume = true};
    struct store store = {.path = dir};
    struct verify v = {.store = &store, .opts = &opts};
    struct verify again = v;
    struct vn_err err = VN_ERR_INIT;
    uint64_t sum;

    if (!path[0]) {
        if (!mkdtemp(dir))
            abort();
        snprintf(path, sizeof(path), "%s/verify.state", dir);
        atexit(clean_up);
    }
    memset(store.config.store_id, 0xaa, sizeof(store.config.store_id));
    write_file(data, size);
    if (verify_state_open(&v, &err) < 0) {
        assert(err.code && err.msg[0]);
        verify_state_close(&v, false); /* and leaves the file alone */
        return 0;
    }
    sum = sum_well(&v);
    verify_state_close(&v, false);
    assert(verify_state_open(&again, &err) == 0);
    assert(sum_well(&again) == sum);
    verify_state_close(&again, true);
    assert(access(path, F_OK) < 0);
    return 0;
}
