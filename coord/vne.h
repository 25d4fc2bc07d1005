#ifndef COORD_VNE_H
#define COORD_VNE_H

/*
 * The VNE file: a virtual network environment described in YAML.
 * Grammar with an example: docs/formats/vne.md.
 */

#include "capture/vm.h"
#include "common/err.h"

#include <jansson.h>
#include <stdint.h>

#define VNE_HOSTS_MAX     256u
#define VNE_VMS_MAX       1024u
#define VNE_FILE_MAX      (1u << 20)
#define VNE_VNI_MAX       0xffffffu /* 24 bits, RFC 8926 section 3.4 */
#define VNE_UNDERLAY_PORT 6081      /* where a file names none */

struct vne_host {
    char *name;
    char *agent;    /* "unix:/run/x.sock" or "tls:10.0.0.1:7070" */
    char *underlay; /* "10.0.0.1:6081": where its switch listens */
};

struct vne_vm {
    char *host; /* NULL in a manifest's copy before placement */
    struct vm_config config;
};

struct vne {
    char *name;
    uint32_t vni;
    char *domain; /* of its snapshots in the store; NULL: the store's own */
    struct vne_host *hosts;
    size_t host_count;
    struct vne_vm *vms;
    size_t vm_count;
};

/*
 * Parse a file. Every error names the file, line and column: syntax, unknown
 * or doubled keys, missing ones, wrong types, unknown hosts, doubled names and
 * MACs. Relative paths are taken from the file's folder. Missing MACs and a
 * missing vni are derived from the names. Caller frees with vne_free().
 */
struct vne *vne_load(const char *path, struct vn_err *err) VN_MUST_USE;
/* The same from memory: `file` is its name in errors, relative paths are taken
 * from `folder`. Touches no files. */
struct vne *vne_parse(const char *text, size_t size, const char *file,
                      const char *folder, struct vn_err *err) VN_MUST_USE;
void vne_free(struct vne *vne);
const struct vne_host *vne_find_host(const struct vne *vne, const char *name);

/* For the wire and the manifest's metadata, and back, limits checked. A VM is
 * {"host": ..., "config": {...}} there. */
json_t *vne_to_json(const struct vne *vne);
struct vne *vne_from_json(const json_t *json, struct vn_err *err) VN_MUST_USE;

/* The VM of that name in a VNE's JSON (borrowed), or NULL. */
json_t *vne_json_vm(const json_t *vne, const char *name);

VN_AUTO_DEFINE(vne, struct vne *, vne_free)

#endif
