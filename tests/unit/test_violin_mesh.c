/*
 * Three switches over a network that reorders, doubles markers and loses,
 * through whole cuts: consistent, nothing lost or doubled, everything in
 * transit recorded once, and what is missing counted exactly. The seed is
 * printed.
 */
#include "switch_bench.h"
#include "switch_random.h"

#include "violin/serial.h"

#define HOSTS       3
#define HOST_PORTS  2
#define ALL_PORTS   (HOSTS * HOST_PORTS)
#define WIRE_MAX    4096
#define MESH_FRAMES 1024

struct packet {
    unsigned from, to;
    bool is_marker;
    struct vsw_marker marker;
    uint32_t epoch;
    uint8_t frame[FRAME_SIZE];
};

struct host {
    unsigned index;
    struct vsw *sw;
    unsigned ports;
    unsigned closed;
};

static struct mesh {
    struct host hosts[HOSTS];
    struct packet wire[WIRE_MAX];
    unsigned wire_count;
    uint64_t now_ns;
    unsigned lose_percent, double_markers;
    unsigned sent_count;
    uint32_t sent_epoch[MESH_FRAMES]; /* of each frame */
    unsigned sent_port[MESH_FRAMES];
    bool lost[MESH_FRAMES][HOSTS];
    unsigned delivered[MESH_FRAMES][ALL_PORTS];
    unsigned recorded[MESH_FRAMES][ALL_PORTS];
    bool expect_record[MESH_FRAMES][ALL_PORTS];
} mesh;

static unsigned port_id(const struct host *h, unsigned port)
{
    return h->index * HOST_PORTS + port;
}

/* Peers of a host: the other hosts, in order. */
static unsigned peer_to_host(const struct host *h, unsigned peer)
{
    return peer < h->index ? peer : peer + 1;
}

static unsigned host_to_peer(const struct host *h, unsigned host)
{
    return host < h->index ? host : host - 1;
}

static void mesh_deliver(void *context, unsigned port, const void *frame,
                         size_t size)
{
    struct host *h = context;
    unsigned n = frame_number(frame);

    assert_int_equal(size, FRAME_SIZE);
    /* Nothing is received before the cut that was sent after it. */
    assert_false(serial_newer(mesh.sent_epoch[n], vsw_port_epoch(h->sw, port)));
    mesh.delivered[n][port_id(h, port)]++;
}

static void mesh_record(void *context, unsigned port, uint32_t epoch,
                        const void *frame, size_t size)
{
    struct host *h = context;
    unsigned n = frame_number(frame);

    assert_int_equal(size, FRAME_SIZE);
    assert_int_equal(epoch, mesh.sent_epoch[n]);
    assert_true(serial_older(epoch, vsw_port_epoch(h->sw, port)));
    assert_int_equal(h->closed, 0); /* the records were not complete yet */
    mesh.recorded[n][port_id(h, port)]++;
}

static void put_wire(const struct packet *p)
{
    assert_true(mesh.wire_count < WIRE_MAX);
    mesh.wire[mesh.wire_count++] = *p;
}

static void mesh_transmit(void *context, unsigned peer, uint32_t epoch,
                          const void *frame, size_t size)
{
    struct host *h = context;
    struct packet p = {
        .from = h->index, .to = peer_to_host(h, peer), .epoch = epoch};

    memcpy(p.frame, frame, size);
    if (pick(100) < mesh.lose_percent)
        mesh.lost[frame_number(frame)][p.to] = true;
    else
        put_wire(&p);
}

static void mesh_marker(void *context, unsigned peer,
                        const struct vsw_marker *marker)
{
    struct host *h = context;
    struct packet p = {.from = h->index,
                       .to = peer_to_host(h, peer),
                       .is_marker = true,
                       .marker = *marker};

    if (pick(100) < mesh.lose_percent * 5)
        return;
    put_wire(&p);
    if (pick(100) < mesh.double_markers)
        put_wire(&p);
}

static void mesh_trigger(void *context, uint32_t epoch)
{
    (void)context;
    (void)epoch;
}

static void mesh_closed(void *context, uint32_t epoch)
{
    struct host *h = context;

    (void)epoch;
    h->closed++;
    assert_int_equal(h->closed, 1);
}

static const struct vsw_effects mesh_effects = {
    mesh_deliver, mesh_transmit, mesh_marker,
    mesh_record,  mesh_trigger,  mesh_closed,
};

/* Whatever packet, in no order. */
static void carry_one(void)
{
    unsigned i;
    struct packet p;
    struct host *h;

    if (mesh.wire_count == 0)
        return;
    i = pick(mesh.wire_count);
    p = mesh.wire[i];
    mesh.wire[i] = mesh.wire[--mesh.wire_count];
    h = &mesh.hosts[p.to];
    if (p.is_marker)
        vsw_marker_from_peer(h->sw, host_to_peer(h, p.from), &p.marker,
                             mesh.now_ns);
    else
        vsw_from_peer(h->sw, host_to_peer(h, p.from), p.epoch, p.frame,
                      FRAME_SIZE, mesh.now_ns);
    vsw_check(h->sw);
}

static void send_one(void)
{
    struct host *h = &mesh.hosts[pick(HOSTS)];
    unsigned port = pick(HOST_PORTS), n = mesh.sent_count;
    uint8_t frame[FRAME_SIZE];

    if (port >= h->ports || n == MESH_FRAMES)
        return;
    mesh.sent_count++;
    mesh.sent_epoch[n] = vsw_port_epoch(h->sw, port);
    mesh.sent_port[n] = port_id(h, port);
    frame_make(frame, BROADCAST, port_id(h, port) + 1, n);
    vsw_from_port(h->sw, port, frame, sizeof(frame), mesh.now_ns);
}

static void traffic(unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        mesh.now_ns += 100000;
        if (pick(3) == 0)
            send_one();
        else
            carry_one();
    }
}

/* What has not arrived at a port when it moves must be recorded there. */
static void note_in_transit(const struct host *h, unsigned port)
{
    for (unsigned n = 0; n < mesh.sent_count; n++) {
        unsigned id = port_id(h, port);

        if (mesh.sent_port[n] != id && !mesh.delivered[n][id] &&
            !mesh.lost[n][h->index] && mesh.sent_epoch[n] == vsw_epoch(h->sw))
            mesh.expect_record[n][id] = true;
    }
}

/* Frames sent later, by ports that have not moved, are in transit too. */
static void note_late_senders(void)
{
    for (unsigned n = 0; n < mesh.sent_count; n++) {
        for (unsigned id = 0; id < ALL_PORTS; id++) {
            const struct host *h = &mesh.hosts[id / HOST_PORTS];
            bool expected = mesh.expect_record[n][id];

            if (id % HOST_PORTS >= h->ports)
                continue;
            if (mesh.recorded[n][id] > 1 ||
                (expected && mesh.recorded[n][id] != 1))
                fail_msg("frame %u at port %u: recorded %u times", n, id,
                         mesh.recorded[n][id]);
        }
    }
}

static bool all_closed(void)
{
    for (unsigned i = 0; i < HOSTS; i++) {
        if (!mesh.hosts[i].closed)
            return false;
    }
    return true;
}

static void carry_until_quiet(unsigned rounds)
{
    for (unsigned i = 0; i < rounds && !all_closed(); i++) {
        mesh.now_ns += 1000000;
        for (unsigned j = 0; j < HOSTS; j++)
            vsw_tick(mesh.hosts[j].sw, mesh.now_ns);
        for (unsigned n = mesh.wire_count * 2 + 4; n; n--)
            carry_one();
    }
}

static void cut_port(struct host *h, unsigned port)
{
    vsw_hold(h->sw, port);
    traffic(pick(20));
    note_in_transit(h, port);
    vsw_cut(h->sw, port, mesh.now_ns);
    traffic(pick(20));
    vsw_release(h->sw, port);
    vsw_check(h->sw);
}

static void whole_cut(uint32_t epoch)
{
    unsigned order[ALL_PORTS];

    for (unsigned i = 0; i < HOSTS; i++) {
        mesh.hosts[i].closed = 0;
        vsw_arm(mesh.hosts[i].sw, epoch, mesh.now_ns);
        traffic(pick(5));
    }
    for (unsigned i = 0; i < ALL_PORTS; i++)
        order[i] = i;
    for (unsigned i = 0; i < ALL_PORTS; i++) {
        unsigned j = i + pick(ALL_PORTS - i), id = order[j];

        order[j] = order[i];
        if (id % HOST_PORTS < mesh.hosts[id / HOST_PORTS].ports)
            cut_port(&mesh.hosts[id / HOST_PORTS], id % HOST_PORTS);
    }
    carry_until_quiet(3000);
}

static uint64_t owed_to(const struct host *h, uint32_t epoch)
{
    uint64_t owed = 0;

    for (unsigned n = 0; n < mesh.sent_count; n++)
        owed += mesh.lost[n][h->index] && mesh.sent_epoch[n] == epoch;
    return owed;
}

static void finish_all(uint32_t epoch)
{
    for (unsigned i = 0; i < HOSTS; i++) {
        struct host *h = &mesh.hosts[i];

        if (mesh.lose_percent == 0)
            assert_int_equal(h->closed, 1);
        else if (!h->closed)
            assert_int_equal(vsw_give_up(h->sw), owed_to(h, epoch - 1));
        else
            assert_int_equal(owed_to(h, epoch - 1), 0);
        h->closed = 0;
        vsw_finish(h->sw, epoch);
        vsw_check(h->sw);
        assert_int_equal(vsw_epoch(h->sw), epoch);
    }
}

static void check_delivered(void)
{
    while (mesh.wire_count)
        carry_one();
    for (unsigned n = 0; n < mesh.sent_count; n++) {
        for (unsigned id = 0; id < ALL_PORTS; id++) {
            const struct host *h = &mesh.hosts[id / HOST_PORTS];
            bool due = id != mesh.sent_port[n] && id % HOST_PORTS < h->ports &&
                       !mesh.lost[n][h->index];

            assert_int_equal(mesh.delivered[n][id], due);
        }
    }
}

static int mesh_teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < HOSTS; i++)
        vsw_free(mesh.hosts[i].sw);
    memset(&mesh, 0, sizeof(mesh));
    return 0;
}

static void mesh_run(void **state, unsigned lose_percent)
{
    unsigned from = first_seed();

    for (unsigned run = 0; run < 60; run++) {
        uint32_t epoch = run % 3 ? 1 : UINT32_MAX - 1;

        seed(from + run);
        mesh.now_ns = 1000000000;
        mesh.lose_percent = lose_percent;
        mesh.double_markers = 20;
        for (unsigned i = 0; i < HOSTS; i++) {
            struct host *h = &mesh.hosts[i];

            h->index = i;
            h->ports = i == 2 ? pick(HOST_PORTS + 1) : HOST_PORTS;
            h->sw = vsw_new(&(struct vsw_opts){
                .epoch = epoch, .effects = &mesh_effects, .context = h});
            for (unsigned j = 0; j < h->ports; j++)
                vsw_port_add(h->sw, j, false);
            for (unsigned j = 0; j < HOSTS - 1; j++)
                vsw_peer_add(h->sw, j);
        }
        for (unsigned cut = 0; cut < 3; cut++) {
            traffic(60);
            whole_cut(++epoch);
            note_late_senders();
            finish_all(epoch);
        }
        check_delivered();
        mesh_teardown(state);
    }
}

static void test_mesh_reorders(void **state)
{
    mesh_run(state, 0);
}

static void test_mesh_loses(void **state)
{
    mesh_run(state, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_mesh_reorders, mesh_teardown),
        cmocka_unit_test_teardown(test_mesh_loses, mesh_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
