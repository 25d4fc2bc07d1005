#include "restore/state_source.h"

#include "capture/qemu_objects.h"
#include "common/io.h"
#include "restore/qemu_stream_write.h"
#include "restore/xen_stream_write.h"

#include <stdlib.h>
#include <string.h>

#define SIM_READ_SIZE  (1u << 20)
#define SIM_BLOCK_NAME "sim"

/* One of the three. */
struct state_source {
    struct qemu_stream_source *qemu;
    struct xen_stream_source *xen;
    struct {
        struct image_reader *state, *memory; /* sent one after the other */
        uint64_t state_size, memory_size;
    } sim;
};

static struct image_reader *open_object(struct store *store,
                                        const json_t *manifest,
                                        const char *name, uint64_t *ret_size,
                                        struct vn_err *err)
{
    struct image_reader *image;
    struct map_root root;

    if (manifest_object(manifest, name, &root, err) < 0)
        return NULL;
    image = image_reader_open(store, &root, err);
    if (!image)
        vn_wrap(err, "object '%s'", name);
    else
        *ret_size = root.size;
    return image;
}

static int open_sim(struct state_source *source, struct store *store,
                    const json_t *manifest, const char *vm, struct vn_err *err)
{
    vn_auto(free) char *state = qemu_object_device_state(vm);
    vn_auto(free) char *memory = qemu_object_ram(vm, SIM_BLOCK_NAME);

    source->sim.state =
        open_object(store, manifest, state, &source->sim.state_size, err);
    if (!source->sim.state)
        return -1;
    source->sim.memory =
        open_object(store, manifest, memory, &source->sim.memory_size, err);
    return source->sim.memory ? 0 : -1;
}

struct state_source *state_source_open(struct store *store,
                                       const json_t *manifest,
                                       const struct vm_config *config,
                                       struct vn_err *err)
{
    vn_auto(state_source) struct state_source *source =
        vn_alloc(sizeof(*source));
    const char *backend = config->backend ? config->backend : "qemu";

    if (!strcmp(backend, "qemu")) {
        source->qemu =
            qemu_stream_source_open(store, manifest, config->name, err);
        if (!source->qemu)
            return NULL;
    } else if (!strcmp(backend, "xen")) {
        source->xen =
            xen_stream_source_open(store, manifest, config->name, config, err);
        if (!source->xen)
            return NULL;
    } else if (!strcmp(backend, "sim")) {
        if (open_sim(source, store, manifest, config->name, err) < 0)
            return NULL;
    } else {
        return vn_fail_ptr(err, VN_E_UNSUPPORTED,
                           "VM '%s': cannot restore to back end '%s'",
                           config->name, backend);
    }
    return vn_steal(&source);
}

void state_source_free(struct state_source *source)
{
    if (!source)
        return;
    qemu_stream_source_free(source->qemu);
    xen_stream_source_free(source->xen);
    image_reader_free(source->sim.state);
    image_reader_free(source->sim.memory);
    free(source);
}

int state_source_check_host(const struct state_source *source,
                            struct vn_err *err)
{
    return source->xen ? xen_stream_source_check_cpu(source->xen, err) : 0;
}

const char *state_source_machine(const struct state_source *source)
{
    return source->qemu ? qemu_stream_source_machine(source->qemu) : NULL;
}

static int write_image(struct image_reader *image, uint64_t size, int fd,
                       struct vn_err *err)
{
    vn_auto(free) uint8_t *data = vn_alloc(SIM_READ_SIZE);

    for (uint64_t done = 0; done < size;) {
        size_t n =
            size - done < SIM_READ_SIZE ? (size_t)(size - done) : SIM_READ_SIZE;

        if (image_reader_read(image, done, data, n, err) < 0 ||
            io_write(fd, data, n, err) < 0)
            return -1;
        done += n;
    }
    return 0;
}

int state_source_write(struct state_source *source, int fd, struct vn_err *err)
{
    if (source->qemu)
        return qemu_stream_source_write(source->qemu, fd, err);
    if (source->xen)
        return xen_stream_source_write(source->xen, XEN_FRAMING_XL, fd, err);
    if (write_image(source->sim.state, source->sim.state_size, fd, err) < 0)
        return -1;
    return write_image(source->sim.memory, source->sim.memory_size, fd, err);
}
