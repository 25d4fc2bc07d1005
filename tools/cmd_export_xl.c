#include "cmd_export_xl.h"

#include "common/auto.h"
#include "restore/xen_stream_write.h"

#include <stdlib.h>

/* All names in one line, for the error. */
static char *list_vms(json_t *states)
{
    char *names = vn_strdup("");
    const char *name;
    json_t *state;

    json_object_foreach (states, name, state) {
        char *longer = vn_format("%s%s%s", names, *names ? ", " : "", name);

        free(names);
        names = longer;
    }
    return names;
}

/* The name of the only VM; borrowed from the manifest. */
static const char *only_vm(const json_t *manifest, const char *snapshot,
                           struct vn_err *err)
{
    json_t *states =
        json_object_get(json_object_get(manifest, "meta"), "vm_state");
    vn_auto(free) char *names = NULL;

    if (json_object_size(states) == 1)
        return json_object_iter_key(json_object_iter(states));
    if (json_object_size(states) == 0)
        return vn_fail_ptr(err, VN_E_NOT_FOUND, "snapshot '%s' has no VM",
                           snapshot);
    names = list_vms(states);
    return vn_fail_ptr(err, VN_E_NOT_FOUND,
                       "snapshot '%s' has several VMs, --vm must say which: %s",
                       snapshot, names);
}

int export_xl(struct store *store, const char *snapshot, const char *vm, int fd,
              store_progress_fn *progress, void *context, struct vn_err *err)
{
    vn_auto(store_hold) struct store_hold *hold = store_hold_open(store, err);
    vn_auto(json) json_t *manifest =
        hold ? store_load(store, snapshot, err) : NULL;
    vn_auto(xen_stream_source) struct xen_stream_source *source = NULL;

    if (!manifest)
        return -1;
    if (!vm)
        vm = only_vm(manifest, snapshot, err);
    if (!vm)
        return -1;
    source = xen_stream_source_open(store, manifest, vm, NULL, err);
    if (!source)
        return -1;
    xen_stream_source_set_progress(source, progress, context);
    return xen_stream_source_write(source, XEN_FRAMING_XL, fd, err);
}
