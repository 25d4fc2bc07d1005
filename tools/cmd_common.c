#include "cmd.h"

#include "common/jsonx.h"

#include <string.h>

struct store *cmd_open_store(const struct cmd_common *common,
                             struct vn_err *err)
{
    if (strstr(common->store, "://"))
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "store '%s': this build opens directories only",
                           common->store);
    return store_open(common->store, err);
}

json_t *cmd_counts_json(const struct store_counts *c)
{
    json_t *bytes = json_object();

    json_object_set_new(bytes, "read", jsonx_int(c->bytes_read));
    json_object_set_new(bytes, "zero", jsonx_int(c->bytes_zero));
    json_object_set_new(bytes, "unchanged", jsonx_int(c->bytes_unchanged));
    json_object_set_new(bytes, "known", jsonx_int(c->bytes_known));
    json_object_set_new(bytes, "new", jsonx_int(c->bytes_new));
    json_object_set_new(bytes, "stored", jsonx_int(c->bytes_stored));
    return bytes;
}
