#ifndef GUEST_MESSAGE_H
#define GUEST_MESSAGE_H

/*
 * Messages between oracles and the checks on them; no sockets here. One
 * thread. Format: docs/formats/oracle.md.
 */

#include "oracle.h"

#define MESSAGE_MAGIC   0x4c43524fu /* "ORCL" */
#define MESSAGE_UDP_MAX 1400u
#define MESSAGE_TCP_MAX 3000u
#define MESSAGE_MAX     MESSAGE_TCP_MAX

enum message_type {
    MESSAGE_TCP = ORACLE_TCP,
    MESSAGE_UDP = ORACLE_UDP,
    MESSAGE_BROADCAST = ORACLE_BROADCAST,
    MESSAGE_ACK,  /* UDP, no number: only what it acknowledges */
    MESSAGE_SKIP, /* UDP, no number: "I sent `sequence` and hear nothing" */
};

/* Little-endian, as the machine; followed by the payload. */
struct message_head {
    uint32_t magic;
    uint16_t size; /* whole message */
    uint8_t type;
    uint8_t from; /* oracle id */
    uint8_t to;   /* 0: broadcast */
    uint8_t zero[7];
    uint64_t sequence; /* 1, 2, ... in this channel and direction */
    uint64_t chain;    /* hash of all messages up to this one */
    uint64_t acked;    /* received by the sender in the other direction */
    uint64_t clock[ORACLE_PEERS_MAX]; /* vector clock; [id - 1] */
};
_Static_assert(sizeof(struct message_head) == 40 + 8 * ORACLE_PEERS_MAX,
               "no padding in a message head");

/* One kind of messages with one peer, both directions. */
struct channel {
    enum oracle_kind kind;
    unsigned peer; /* 0: what we broadcast to all */
    uint64_t sent, sent_chain;
    uint64_t acked; /* of those, by the peer */
    uint64_t received, received_chain;
    uint64_t clock[ORACLE_PEERS_MAX]; /* the newest seen */
};

/*
 * Build the next message of a channel in buffer[MESSAGE_MAX]; returns its
 * size. Nothing is counted before message_sent(), called once it went out.
 */
size_t message_build(const struct channel *channel, unsigned char *buffer);
void message_sent(struct channel *channel, const unsigned char *buffer);
/* ACK or SKIP of a UDP channel: carry no number and count nowhere. */
size_t message_build_control(const struct channel *channel,
                             enum message_type type, unsigned char *buffer);

/* Is this a whole, unforged message from `peer` to us? Counts `forged`. */
bool message_check_form(const unsigned char *buffer, size_t size,
                        unsigned peer);
/* Check a message that passed the above against everything that its channel
 * knows, and count it; also SKIP and ACK. */
void message_take(struct channel *channel, const unsigned char *buffer);

#endif
