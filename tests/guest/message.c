/*
 * The oracle's messages: numbers, chains and clocks.
 *
 * Each direction of each channel numbers its messages 1, 2, ... and hashes
 * them into a chain, so the receiver knows of every message whether it is the
 * next one and whether the sender's past is the past that it saw. The payload
 * is a function of the head's first fields; a foreign byte shows at once.
 *
 * Causality: an oracle's clock entry counts what it sent on all its channels.
 * Each message carries the sender's vector clock and how much the sender has
 * received from us. If either says more than we remember having sent, the
 * message comes out of our future: the snapshot was not consistent. Clocks of
 * one channel never go back.
 *
 * A gap means lost messages: the receiver counts them and goes on from the
 * number it saw. A number seen before is a doubled (or overtaken) message.
 *
 * Control messages (ACK, SKIP) may be lost or doubled without harm, but their
 * clocks are checked as well. SKIP comes from a sender whose window stayed
 * shut for long: since the network keeps order, what it had sent before and
 * we have not seen is lost.
 */

#include "message.h"

#include <string.h>

static uint64_t own_clock[ORACLE_PEERS_MAX];

static struct message_head read_head(const unsigned char *buffer)
{
    struct message_head head;

    memcpy(&head, buffer, sizeof(head));
    return head;
}

static uint64_t payload_seed(const struct message_head *head)
{
    return oracle_mix(head->sequence, (uint64_t)head->from << 16 |
                                          (uint64_t)head->to << 8 | head->type);
}

/* Payload sizes are multiples of 8, from none to what the type allows. */
static size_t message_size(const struct message_head *head)
{
    size_t max = head->type == MESSAGE_TCP ? MESSAGE_TCP_MAX : MESSAGE_UDP_MAX;
    size_t words = (max - sizeof(*head)) / 8;

    return sizeof(*head) + 8 * (payload_seed(head) % (words + 1));
}

static uint64_t payload_word(uint64_t seed, size_t offset)
{
    return (seed + offset) * 0x9e3779b97f4a7c15ull;
}

/* The chain up to this message: `chain` itself is not hashed. */
static uint64_t next_chain(uint64_t before, const struct message_head *head)
{
    uint64_t hash = oracle_mix(before, payload_seed(head));

    hash = oracle_mix(hash, head->acked);
    for (unsigned i = 0; i < ORACLE_PEERS_MAX; i++)
        hash = oracle_mix(hash, head->clock[i]);
    return hash;
}

static struct message_head new_head(const struct channel *channel,
                                    enum message_type type)
{
    struct message_head head = {
        .magic = MESSAGE_MAGIC,
        .size = sizeof(head),
        .type = (uint8_t)type,
        .from = (uint8_t)oracle_opts.id,
        .to = (uint8_t)channel->peer,
        .acked = channel->received,
        .sequence = channel->sent,
    };

    memcpy(head.clock, own_clock, sizeof(own_clock));
    return head;
}

size_t message_build(const struct channel *channel, unsigned char *buffer)
{
    struct message_head head =
        new_head(channel, (enum message_type)channel->kind);
    uint64_t seed;

    head.sequence++;
    head.clock[oracle_opts.id - 1]++;
    head.size = (uint16_t)message_size(&head);
    head.chain = next_chain(channel->sent_chain, &head);
    memcpy(buffer, &head, sizeof(head));
    seed = payload_seed(&head);
    for (size_t at = sizeof(head); at < head.size; at += 8) {
        uint64_t word = payload_word(seed, at);

        memcpy(buffer + at, &word, 8);
    }
    return head.size;
}

void message_sent(struct channel *channel, const unsigned char *buffer)
{
    struct message_head head = read_head(buffer);

    channel->sent = head.sequence;
    channel->sent_chain = head.chain;
    own_clock[oracle_opts.id - 1]++;
    oracle_counts.sent[channel->kind]++;
}

size_t message_build_control(const struct channel *channel,
                             enum message_type type, unsigned char *buffer)
{
    struct message_head head = new_head(channel, type);

    memcpy(buffer, &head, sizeof(head));
    return sizeof(head);
}

bool message_check_form(const unsigned char *buffer, size_t size, unsigned peer)
{
    struct message_head head;
    size_t expected = sizeof(head);
    uint64_t seed;

    if (size < sizeof(head)) {
        oracle_violation(&oracle_counts.forged, "%zu bytes from %u", size,
                         peer);
        return false;
    }
    head = read_head(buffer);
    if (head.type < ORACLE_KINDS)
        expected = message_size(&head);
    if (head.magic != MESSAGE_MAGIC || head.from != peer || head.size != size ||
        size != expected || head.type > MESSAGE_SKIP ||
        head.to != (head.type == MESSAGE_BROADCAST ? 0 : oracle_opts.id)) {
        oracle_violation(&oracle_counts.forged,
                         "from %u: head magic=%x from=%u to=%u type=%u "
                         "size=%u of %zu, seq=%lu",
                         peer, head.magic, head.from, head.to, head.type,
                         head.size, size, head.sequence);
        return false;
    }
    seed = payload_seed(&head);
    for (size_t at = sizeof(head); at < size; at += 8) {
        uint64_t word = payload_word(seed, at);

        if (memcmp(buffer + at, &word, 8)) {
            oracle_violation(&oracle_counts.forged,
                             "from %u: payload at %zu of type %u seq %lu", peer,
                             at, head.type, head.sequence);
            return false;
        }
    }
    return true;
}

/* Nothing may have come from what we have not done yet. */
static void check_clock(struct channel *channel,
                        const struct message_head *head)
{
    unsigned self = oracle_opts.id - 1;

    if (head->acked > channel->sent)
        oracle_violation(&oracle_counts.future,
                         "%u has received %lu messages of kind %u, sent %lu",
                         head->from, head->acked, head->type, channel->sent);
    if (head->clock[self] > own_clock[self])
        oracle_violation(&oracle_counts.future,
                         "%u knows our clock at %lu, it stands at %lu",
                         head->from, head->clock[self], own_clock[self]);
    for (unsigned i = 0; i < ORACLE_PEERS_MAX; i++) {
        if (head->clock[i] < channel->clock[i])
            oracle_violation(&oracle_counts.forged,
                             "%u: its clock of %u went back from %lu to %lu",
                             head->from, i + 1, channel->clock[i],
                             head->clock[i]);
        channel->clock[i] = head->clock[i];
        if (head->clock[i] > own_clock[i] && i != self)
            own_clock[i] = head->clock[i];
    }
    if (head->acked > channel->acked && channel->peer)
        channel->acked = head->acked;
}

static void skip_to(struct channel *channel, uint64_t sequence, unsigned from,
                    const char *why)
{
    uint64_t lost = sequence - channel->received;

    oracle_violation(&oracle_counts.lost[channel->kind],
                     "from %u kind %u: %lu lost behind seq %lu (%s)", from,
                     channel->kind, lost, channel->received, why);
    oracle_counts.lost[channel->kind] += lost - 1; /* one is counted above */
    channel->received = sequence;
}

void message_take(struct channel *channel, const unsigned char *buffer)
{
    struct message_head head = read_head(buffer);
    bool gap = false;

    if (head.type >= ORACLE_KINDS) {
        if (head.type == MESSAGE_SKIP && head.sequence > channel->received)
            skip_to(channel, head.sequence, head.from, "window shut");
        check_clock(channel, &head);
        return;
    }
    if (head.sequence <= channel->received) {
        oracle_violation(&oracle_counts.doubled[channel->kind],
                         "from %u kind %u: seq %lu again, at %lu", head.from,
                         channel->kind, head.sequence, channel->received);
        return;
    }
    if (head.sequence > channel->received + 1) {
        skip_to(channel, head.sequence - 1, head.from, "gap");
        gap = true;
    }
    if (!gap && head.chain != next_chain(channel->received_chain, &head))
        oracle_violation(&oracle_counts.forged,
                         "from %u kind %u: chain broken at seq %lu", head.from,
                         channel->kind, head.sequence);
    check_clock(channel, &head);
    channel->received = head.sequence;
    channel->received_chain = head.chain;
    oracle_counts.received[channel->kind]++;
    oracle_counts.by_peer[channel->kind][head.from] = channel->received;
}
