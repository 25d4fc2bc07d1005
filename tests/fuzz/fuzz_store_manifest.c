/* A manifest's text: parse, check, and look its objects up. */

#include "common/jsonx.h"
#include "store/store.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    json_t *manifest = jsonx_parse((const char *)data, size, "input", &err);
    struct map_root root;
    const char *name;
    json_t *entry;

    if (manifest && manifest_check(manifest, &err) == 0) {
        json_object_foreach (json_object_get(manifest, "objects"), name, entry)
            if (manifest_object(manifest, name, &root, &err) < 0 ||
                root.size > STORE_OBJECT_MAX)
                abort(); /* it was checked */
    }
    json_decref(manifest);
    return 0;
}
