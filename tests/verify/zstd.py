"""zstd frames, decoded from RFC 8878 with Python's standard library only.

For tests/verify/store.py: one frame with its content's size, without a
dictionary. Slow, and strict: what does not follow the format is a ValueError.
"""

LL_BASE = list(range(16)) + [16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 128, 256,
                             512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
LL_BITS = [0] * 16 + [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13,
                      14, 15, 16]
ML_BASE = list(range(3, 35)) + [35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99,
                                131, 259, 515, 1027, 2051, 4099, 8195, 16387,
                                32771, 65539]
ML_BITS = [0] * 32 + [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12,
                      13, 14, 15, 16]
LL_DEFAULT = [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2,
              2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1]
ML_DEFAULT = [1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
              1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
              1, 1, -1, -1, -1, -1, -1, -1, -1]
OF_DEFAULT = [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
              1, 1, -1, -1, -1, -1, -1]


def little(data):
    return int.from_bytes(data, "little")


class Backward:
    """Bits from the end of bytes: section 4.1."""

    def __init__(self, data):
        if not data or data[-1] == 0:
            raise ValueError("a bit stream without its end mark")
        self.value = little(data)
        self.left = self.value.bit_length() - 1

    def take(self, count):
        """Past the end come zeros; `left` turns negative."""
        self.left -= count
        mask = (1 << count) - 1
        if self.left >= 0:
            return self.value >> self.left & mask
        return self.value << -self.left & mask


def fse_counts(data, log_max, symbol_max):
    """Section 4.1.1: probabilities, accuracy log, and bytes used."""
    bits = little(data)
    at = 4
    log = (bits & 15) + 5
    if log > log_max:
        raise ValueError("an accuracy of %d" % log)
    left = (1 << log) + 1
    counts = []
    while left > 1 and len(counts) <= symbol_max:
        width = left.bit_length()
        limit = (1 << width) - 1 - left
        value = bits >> at & ((1 << width) - 1)
        low = value & ((1 << (width - 1)) - 1)
        if low < limit:
            value = low
            at += width - 1
        else:
            if value >= 1 << (width - 1):
                value -= limit
            at += width
        count = value - 1
        counts.append(count)
        left -= abs(count)
        while count == 0:
            repeat = bits >> at & 3
            at += 2
            counts += [0] * repeat
            if repeat != 3:
                break
    used = (at + 7) // 8
    if left != 1 or len(counts) > symbol_max + 1 or used > len(data):
        raise ValueError("a table of probabilities that does not add up")
    return counts, log, used


def fse_table(counts, log):
    """[(symbol, bits, base of the next state)]."""
    size = 1 << log
    symbols = [None] * size
    high = size - 1
    for symbol, count in enumerate(counts):
        if count == -1:
            symbols[high] = symbol
            high -= 1
    at = 0
    for symbol, count in enumerate(counts):
        for _ in range(max(count, 0)):
            symbols[at] = symbol
            at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1)
            while at > high:
                at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1)
    following = [1 if count == -1 else count for count in counts]
    table = []
    for symbol in symbols:
        state = following[symbol]
        following[symbol] += 1
        bits = log - (state.bit_length() - 1)
        table.append((symbol, bits, (state << bits) - size))
    return table, log


def huffman_weights(data):
    """Section 4.2.1.2: two states take turns."""
    counts, log, used = fse_counts(data, 6, 255)
    table, log = fse_table(counts, log)
    bits = Backward(data[used:])
    states = [bits.take(log), bits.take(log)]
    weights = []
    turn = 0
    while True:
        symbol, count, base = table[states[turn]]
        weights.append(symbol)
        states[turn] = base + bits.take(count)
        turn ^= 1
        if bits.left < 0:
            weights.append(table[states[turn]][0])
            return weights
        if len(weights) > 255:
            raise ValueError("too many weights")


def huffman_tree(data):
    """({(bits, code): symbol}, most bits, bytes used)."""
    head = data[0]
    if head < 128:
        weights = huffman_weights(data[1:1 + head])
        used = 1 + head
    else:
        count = head - 127
        used = 1 + (count + 1) // 2
        weights = [data[1 + i // 2] >> (0 if i % 2 else 4) & 15
                   for i in range(count)]
    total = sum(1 << w >> 1 for w in weights)
    bits_max = total.bit_length()
    rest = (1 << bits_max) - total
    if total == 0 or rest & (rest - 1) or bits_max > 11:
        raise ValueError("weights that are no tree")
    weights.append(rest.bit_length())
    # Codes rise with the weight, then with the symbol.
    lookup = [None] * (1 << bits_max)
    at = 0
    for weight in range(1, bits_max + 1):
        for symbol, w in enumerate(weights):
            if w != weight:
                continue
            span = 1 << (weight - 1)
            lookup[at:at + span] = [(symbol, bits_max + 1 - weight)] * span
            at += span
    return (lookup, bits_max), used


def huffman_stream(tree, data, size):
    lookup, bits_max = tree
    bits = Backward(data)
    out = bytearray()
    while len(out) < size:
        window = bits.take(bits_max)
        symbol, count = lookup[window]
        bits.left += bits_max - count
        out.append(symbol)
    if bits.left != 0:
        raise ValueError("a stream of literals of another size")
    return bytes(out)


def literals(data, tree):
    """Section 3.1.1.3.1: (literals, tree, bytes used)."""
    kind, form = data[0] & 3, data[0] >> 2 & 3
    if kind < 2:
        head = (1, 2, 1, 3)[form]
        size = little(data[:head]) >> (3 if head == 1 else 4)
        if kind == 1:
            return data[head:head + 1] * size, tree, head + 1
        return data[head:head + size], tree, head + size
    head, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
    value = little(data[:head]) >> 4
    size = value & ((1 << width) - 1)
    packed = value >> width
    body = data[head:head + packed]
    used = 0
    if kind == 2:
        tree, used = huffman_tree(body)
    if tree is None:
        raise ValueError("a tree that was never given")
    body = body[used:]
    if form == 0:
        return huffman_stream(tree, body, size), tree, head + packed
    ends = [6]
    for i in range(3):
        ends.append(ends[-1] + little(body[2 * i:2 * i + 2]))
    ends.append(len(body))
    part = (size + 3) // 4
    sizes = [part, part, part, size - 3 * part]
    return (b"".join(huffman_stream(tree, body[ends[i]:ends[i + 1]], sizes[i])
                     for i in range(4)), tree, head + packed)


def sequence_tables(data, modes, tables):
    """Read the three tables; returns bytes used."""
    at = 0
    kinds = (("ll", 6, LL_DEFAULT, 6, 9, 35), ("of", 4, OF_DEFAULT, 5, 8, 31),
             ("ml", 2, ML_DEFAULT, 6, 9, 52))
    for name, shift, default, log, log_max, symbol_max in kinds:
        mode = modes >> shift & 3
        if mode == 0:
            tables[name] = fse_table(default, log)
        elif mode == 1:
            tables[name] = [(data[at], 0, 0)], 0
            at += 1
        elif mode == 2:
            counts, log, used = fse_counts(data[at:], log_max, symbol_max)
            tables[name] = fse_table(counts, log)
            at += used
    return at


def copy_match(out, offset, size):
    if not 0 < offset <= len(out):
        raise ValueError("a match points outside")
    for _ in range(size // offset + 1):
        piece = bytes(out[len(out) - offset:][:size])
        out += piece
        size -= len(piece)
        if size == 0:
            return


def resolve(value, literal_size, recent):
    """Section 3.1.1.5: the offset, and the three recent ones brought on."""
    if value > 3:
        recent[:] = [value - 3, recent[0], recent[1]]
        return recent[0]
    index = value - 1 + (literal_size == 0)
    offset = recent[0] - 1 if index == 3 else recent[index]
    if index > 0:
        recent[:] = [offset, recent[0], recent[1] if index > 1 else recent[2]]
    return offset


def sequences(data, lits, out, tables, recent):
    count = data[0]
    at = 1
    if count > 127:
        if count < 255:
            count = (count - 128 << 8) + data[1]
            at = 2
        else:
            count = little(data[1:3]) + 0x7F00
            at = 3
    if count == 0:
        out += lits
        return
    modes = data[at]
    at += 1 + sequence_tables(data[at + 1:], modes, tables)
    bits = Backward(data[at:])
    (ll, ll_log), (of, of_log), (ml, ml_log) = (
        tables["ll"], tables["of"], tables["ml"])
    ll_state, of_state, ml_state = (bits.take(ll_log), bits.take(of_log),
                                    bits.take(ml_log))
    done = 0
    for i in range(count):
        ll_code, of_code, ml_code = (ll[ll_state][0], of[of_state][0],
                                     ml[ml_state][0])
        value = (1 << of_code) + bits.take(of_code)
        match = ML_BASE[ml_code] + bits.take(ML_BITS[ml_code])
        size = LL_BASE[ll_code] + bits.take(LL_BITS[ll_code])
        if i < count - 1:
            ll_state = ll[ll_state][2] + bits.take(ll[ll_state][1])
            ml_state = ml[ml_state][2] + bits.take(ml[ml_state][1])
            of_state = of[of_state][2] + bits.take(of[of_state][1])
        if size > len(lits) - done:
            raise ValueError("more literals than there are")
        out += lits[done:done + size]
        done += size
        copy_match(out, resolve(value, size, recent), match)
    if bits.left != 0:
        raise ValueError("sequences that do not end where they should")
    out += lits[done:]


def frame_header(data):
    """(content's size, where the blocks begin): section 3.1.1.1."""
    if data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("no zstd frame")
    flags = data[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    if flags & 0x1F or width == 0:
        raise ValueError("a checksum, a dictionary, or no size")
    at = 5 + (not single)
    size = little(data[at:at + width]) + (256 if width == 2 else 0)
    return size, at + width


def decode(data, limit):
    """The content of exactly one frame, of at most `limit` bytes."""
    try:
        size, at = frame_header(data)
        if size > limit:
            raise ValueError("%d bytes" % size)
        out = bytearray()
        tree, tables, recent = None, {}, [1, 4, 8]
        last = False
        while not last:
            head = little(data[at:at + 3])
            last, kind, length = head & 1, head >> 1 & 3, head >> 3
            body = data[at + 3:at + 3 + (1 if kind == 1 else length)]
            at += 3 + len(body)
            if kind == 0:
                out += body
            elif kind == 1:
                out += body * min(length, limit + 1)
            elif kind == 2:
                lits, tree, used = literals(body, tree)
                sequences(body[used:], lits, out, tables, recent)
            else:
                raise ValueError("a block of a kind that is not known")
            if len(out) > limit:
                raise ValueError("more than it says")
        if len(out) != size or at != len(data):
            raise ValueError("%d bytes, not %d" % (len(out), size))
        return bytes(out)
    except (IndexError, KeyError, TypeError) as why:
        raise ValueError("cut or damaged") from why
