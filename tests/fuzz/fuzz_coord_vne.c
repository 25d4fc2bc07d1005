/* The VNE file: what is accepted survives the way to JSON and back. */

#include "coord/vne.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vn_err err = VN_ERR_INIT;
    vn_auto(vne) struct vne *vne =
        vne_parse((const char *)data, size, "fuzz.yaml", "/base", &err);
    vn_auto(vne) struct vne *back = NULL;
    vn_auto(json) json_t *json = NULL;
    vn_auto(json) json_t *again = NULL;

    if (!vne) {
        if (!err.code || !err.msg[0])
            abort();
        return 0;
    }
    json = vne_to_json(vne);
    back = vne_from_json(json, &err);
    if (!back)
        abort();
    again = vne_to_json(back);
    if (!json_equal(json, again))
        abort();
    return 0;
}
