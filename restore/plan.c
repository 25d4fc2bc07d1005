/*
 * Placement of VMs on hosts: greedy, largest first, most free memory first
 * (worst fit: the load is spread, and what fits at all nearly always fits).
 *
 * Two kinds of hosts can be mixed: those whose free memory is known, and
 * those of which it is not (0), which count as having plenty. A host of
 * unknown memory is preferred to any other; among such hosts the one with the
 * fewest VMs so far is next, which makes them take turns.
 *
 * Pinned VMs are placed first and are charged to their host, but never
 * refused for lack of memory: the user has said so. VMs of unknown size (0)
 * fit anywhere.
 *
 * Not done: any search for a better packing when greedy fails; --map is the
 * way out. O(VMs x hosts + VMs log VMs).
 */

#include "restore/plan.h"

#include "common/auto.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct place {
    uint64_t left; /* free memory after what was placed; unused if unknown */
    size_t count;  /* VMs placed here */
};

struct order {
    const struct plan_vm *vm;
    size_t index;
};

static int compare_orders(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    int by_name;

    if (x->vm->memory_bytes != y->vm->memory_bytes)
        return x->vm->memory_bytes > y->vm->memory_bytes ? -1 : 1;
    by_name = strcmp(x->vm->name, y->vm->name);
    if (by_name)
        return by_name;
    return x->index < y->index ? -1 : 1;
}

static void put(struct place *place, const struct plan_vm *vm)
{
    place->left =
        vm->memory_bytes < place->left ? place->left - vm->memory_bytes : 0;
    place->count++;
}

/* Is host a better than host b? Ties are not: the first one stays. */
static bool is_better(const struct plan_host *hosts, const struct place *places,
                      size_t a, size_t b)
{
    bool a_unknown = !hosts[a].free_bytes, b_unknown = !hosts[b].free_bytes;

    if (a_unknown != b_unknown)
        return a_unknown;
    if (a_unknown)
        return places[a].count < places[b].count;
    return places[a].left > places[b].left;
}

static int place_pinned(struct plan_vm *vm, const struct plan_host *hosts,
                        struct place *places, size_t host_count, size_t *ret,
                        struct vn_err *err)
{
    for (size_t h = 0; h < host_count; h++) {
        if (strcmp(hosts[h].name, vm->pinned_host))
            continue;
        put(&places[h], vm);
        *ret = h;
        return 0;
    }
    return vn_fail(err, VN_E_NOT_FOUND,
                   "VM '%s' is mapped to host '%s', which is not in the list",
                   vm->name, vm->pinned_host);
}

static int place_free(struct plan_vm *vm, const struct plan_host *hosts,
                      struct place *places, size_t host_count, size_t *ret,
                      struct vn_err *err)
{
    size_t best = 0;

    for (size_t h = 1; h < host_count; h++)
        if (is_better(hosts, places, h, best))
            best = h;
    if (hosts[best].free_bytes && vm->memory_bytes > places[best].left)
        return vn_fail(err, VN_E_LIMIT,
                       "VM '%s' needs %" PRIu64
                       " MiB and fits on no host: '%s' has the most left, "
                       "%" PRIu64 " MiB",
                       vm->name, vm->memory_bytes >> 20, hosts[best].name,
                       places[best].left >> 20);
    put(&places[best], vm);
    *ret = best;
    return 0;
}

int plan_place(struct plan_vm *vms, size_t vm_count,
               const struct plan_host *hosts, size_t host_count,
               struct vn_err *err)
{
    vn_auto(free) struct place *places = NULL;
    vn_auto(free) struct order *orders = NULL;
    vn_auto(free) size_t *chosen = NULL;

    if (!vm_count)
        return 0;
    if (!host_count)
        return vn_fail(err, VN_E_LIMIT, "no host to place VM '%s' on",
                       vms[0].name);
    places = vn_alloc(host_count * sizeof(*places));
    orders = vn_alloc(vm_count * sizeof(*orders));
    chosen = vn_alloc(vm_count * sizeof(*chosen));
    for (size_t h = 0; h < host_count; h++)
        places[h].left = hosts[h].free_bytes;
    for (size_t v = 0; v < vm_count; v++)
        orders[v] = (struct order){&vms[v], v};
    qsort(orders, vm_count, sizeof(*orders), compare_orders);
    for (int pinned = 1; pinned >= 0; pinned--) {
        for (size_t i = 0; i < vm_count; i++) {
            struct plan_vm *vm = &vms[orders[i].index];
            size_t *ret = &chosen[orders[i].index];
            int r = 0;

            if ((vm->pinned_host != NULL) != pinned)
                continue;
            r = pinned ? place_pinned(vm, hosts, places, host_count, ret, err)
                       : place_free(vm, hosts, places, host_count, ret, err);
            if (r < 0)
                return -1;
        }
    }
    for (size_t v = 0; v < vm_count; v++)
        vms[v].host = chosen[v];
    return 0;
}
