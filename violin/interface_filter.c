/*
 * A traffic-control filter that drops everything, both ways.
 *
 * How it works: four netlink requests, each acknowledged. The queueing
 * discipline clsact is only a place for filters, before the host's protocols
 * (and bridges) get a frame, and before an interface's queues do. At either
 * side goes a classic BPF program of one instruction, "return TC_ACT_SHOT".
 * Packet sockets lie before the one; a socket with PACKET_QDISC_BYPASS goes
 * past the other.
 *
 * BPF was chosen among the classifiers because it carries its verdict itself:
 * one kernel module instead of two, and nothing to match.
 */
#include "violin/interface_filter.h"

#include "common/auto.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INGRESS TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
#define EGRESS  TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)

struct request {
    struct nlmsghdr head;
    struct tcmsg tc;
    uint8_t attributes[256];
};

static_assert(sizeof(struct nlmsghdr) == NLMSG_HDRLEN, "no gap before tc");

static void begin(struct request *r, uint16_t type, uint16_t flags,
                  unsigned index, uint32_t parent)
{
    *r = (struct request){.head = {.nlmsg_type = type}};
    r->head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    r->head.nlmsg_len = offsetof(struct request, attributes);
    r->tc.tcm_family = AF_UNSPEC;
    r->tc.tcm_ifindex = (int)index;
    r->tc.tcm_parent = parent;
}

/* Append an attribute; returns where its header lies, for close_nest(). */
static size_t put(struct request *r, uint16_t type, const void *data,
                  size_t size)
{
    struct rtattr attribute = {(uint16_t)RTA_LENGTH(size), type};
    size_t at = r->head.nlmsg_len;

    assert(at + RTA_SPACE(size) <= sizeof(*r));
    memcpy((uint8_t *)r + at, &attribute, sizeof(attribute));
    if (size)
        memcpy((uint8_t *)r + at + RTA_LENGTH(0), data, size);
    r->head.nlmsg_len += (uint32_t)RTA_SPACE(size);
    return at;
}

static void close_nest(struct request *r, size_t at)
{
    uint16_t size = (uint16_t)(r->head.nlmsg_len - at);

    memcpy((uint8_t *)r + at, &size, sizeof(size)); /* rta_len */
}

/* Send the request and wait for its answer: 0 or an errno. */
static int ask(int fd, const struct request *r)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        uint8_t more[1024]; /* the request, and words */
    } answer;
    ssize_t got;

    if (send(fd, r, r->head.nlmsg_len, 0) < 0)
        return errno;
    got = recv(fd, &answer, sizeof(answer), 0);
    if (got < 0)
        return errno;
    if ((size_t)got < sizeof(answer.head) + sizeof(answer.error) ||
        answer.head.nlmsg_type != NLMSG_ERROR)
        return EPROTO;
    return -answer.error.error;
}

static int add_filter(int fd, unsigned index, uint32_t parent)
{
    const struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, TC_ACT_SHOT);
    const uint32_t flags = TCA_BPF_FLAG_ACT_DIRECT;
    const uint16_t length = 1;
    struct request r;
    size_t options;

    begin(&r, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, index, parent);
    r.tc.tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL)); /* the first */
    put(&r, TCA_KIND, "bpf", sizeof("bpf"));
    options = put(&r, TCA_OPTIONS, NULL, 0);
    put(&r, TCA_BPF_OPS_LEN, &length, sizeof(length));
    put(&r, TCA_BPF_OPS, &drop, sizeof(drop));
    put(&r, TCA_BPF_FLAGS, &flags, sizeof(flags));
    close_nest(&r, options);
    return ask(fd, &r);
}

int interface_filter_all(unsigned index, struct vn_err *err)
{
    vn_auto(close) int fd =
        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct request r;
    int failure;

    if (fd < 0)
        return vn_fail(err, errno, "open a netlink socket");
    begin(&r, RTM_DELQDISC, 0, index, TC_H_CLSACT);
    (void)ask(fd, &r); /* mostly there is none */
    begin(&r, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index, TC_H_CLSACT);
    r.tc.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
    put(&r, TCA_KIND, "clsact", sizeof("clsact"));
    failure = ask(fd, &r);
    if (failure)
        return vn_fail(err, failure, "traffic control (sch_ingress)");
    failure = add_filter(fd, index, INGRESS);
    if (failure == 0)
        failure = add_filter(fd, index, EGRESS);
    if (failure)
        return vn_fail(err, failure, "traffic control (cls_bpf)");
    return 0;
}
