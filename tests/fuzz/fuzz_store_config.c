/* config.json of a store: what is taken is written and read again the same. */

#include "store/store_config.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store_config config;
    struct store_config again;
    struct vn_err err = VN_ERR_INIT;

    if (store_config_parse((const char *)data, size, "input", &config, &err) <
        0) {
        if (!err.code || !err.msg[0])
            abort();
        return 0;
    }
    if (!path[0]) {
        if (!mkdtemp(dir))
            abort();
        snprintf(path, sizeof(path), "%s/config.json", dir);
        atexit(clean_up);
    }
    if (store_config_write(dir, &config, &err) < 0 ||
        store_config_read(dir, &again, &err) < 0 ||
        again.identity != config.identity ||
        memcmp(again.store_id, config.store_id, STORE_UUID_SIZE) != 0 ||
        memcmp(again.key, config.key, IDENT_KEY_SIZE) != 0 ||
        memcmp(again.secret, config.secret, IDENT_SECRET_SIZE) != 0)
        abort();
    return 0;
}
