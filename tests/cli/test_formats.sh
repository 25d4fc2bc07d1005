#!/bin/bash
# Disk images in and out: raw and qcow2, each held against QEMU's own tools,
# through files and pipes; what is refused; that memory does not grow with the
# image.
. "${0%/*}/lib.sh"

S=$DIR/store
export VNSTORE_STORE=$S
I=$DIR/images
mkdir "$I"
run 0 "$VN" init "$S"

# A disk of 300 MiB: data at both ends, in odd places, and long holes.
python3 - "$I/disk" <<'EOF' || bad "no image"
import random, sys
r = random.Random(5)
with open(sys.argv[1], "wb") as f:
    f.truncate(300 << 20)
    for at in (0, 4096 * 15, 65536 * 1900 + 512, 100 << 20, (200 << 20) - 4096,
               (300 << 20) - 4096):
        f.seek(at)
        f.write(r.randbytes(r.randrange(1, 9) * 512))
    f.seek(70 << 20)
    for i in range(8):
        f.write(r.randbytes(1 << 20) if i % 2 else bytes([i + 1]) * (1 << 20))
EOF

run 0 "$VN" put disk "$I/disk"
run 0 "$VN" export disk@1 --format raw -o "$DIR/raw"
same "$I/disk" "$DIR/raw"
[ "$(du -k "$DIR/raw" | cut -f1)" -lt 20000 ] || bad "the raw file has no holes"
"$VN" export disk@1 --format raw -o - | cmp - "$I/disk" || bad "raw pipe"
run 0 "$VN" export disk@1 --format qcow2 -o "$DIR/q1"
run 0 "$VN" export disk@1 --format qcow2 --object disk -o "$DIR/q2"
same "$DIR/q1" "$DIR/q2"
"$VN" export disk@1 -f qcow2 --object file/disk -o - | cmp - "$DIR/q1" ||
    bad "qcow2 pipe"
[ "$(stat -c %s "$DIR/q1")" -lt 20000000 ] || bad "the qcow2 is too large"

# Back again: nothing of it is new, whatever it was packed in.
run 0 "$VN" put back "$DIR/q1" --json
grep -q '"new": 0' "$DIR/out" || bad "not deduplicated: $(cat "$DIR/out")"
run 0 "$VN" export back@1 --format raw --object q1.raw -o "$DIR/raw2"
same "$I/disk" "$DIR/raw2"

# A memory far below the size of the image, which has data everywhere: 64 MiB
# of data space are enough for 4 GiB.
python3 - "$I/large" <<'EOF' || bad "no large image"
import sys
with open(sys.argv[1], "wb") as f:
    f.truncate(4 << 30)
    for i in range(0, 4 << 30, 1 << 20):
        f.seek(i)
        f.write(b"%d\n" % i * 300)
EOF
run 0 "$VN" put large "$I/large"
limit=65536
if ! (ulimit -d $limit && "$VN" --help) >/dev/null 2>&1; then
    echo "built with a sanitizer: memory is not limited"
    limit=unlimited
fi
for format in raw qcow2; do
    (ulimit -d $limit && "$VN" export large@1 --format $format \
        -o "$DIR/large.$format") || bad "$format needs too much memory"
    (ulimit -d $limit && "$VN" export large@1 --format $format -o - |
        tail -c 1 >/dev/null) || bad "$format needs too much memory in a pipe"
done

# Several objects: one must be named.
cp "$I/disk" "$I/other"
run 0 "$VN" put two "$I/disk" "$I/other"
refused export "file/other" two@1 --format raw -o "$DIR/no"
refused export "no object 'third'" two@1 --format raw --object third -o "$DIR/no"
refused export "no VM" two@1 --format raw --disk 0 -o "$DIR/no"
run 64 "$VN" export two@1 --format raw --disk 0 --ram x -o "$DIR/no"
run 64 "$VN" export two@1 --disk 0 -o "$DIR/no"
run 64 "$VN" export two@1 --format vdi -o "$DIR/no"
[ ! -e "$DIR/no" ] || bad "a refused export left a file"

# An odd size: raw keeps it, qcow2 rounds it up to sectors.
head -c 70001 /dev/urandom >"$I/odd"
: >"$I/empty"
run 0 "$VN" put odd "$I/odd" "$I/empty"
run 0 "$VN" export odd@1 -f raw --object odd -o "$DIR/odd"
same "$I/odd" "$DIR/odd"
run 0 "$VN" export odd@1 -f raw --object empty -o "$DIR/empty"
same "$I/empty" "$DIR/empty"

# Disks and memory of VMs, by the names of a network's snapshot.
python3 - "$HERE" "$DIR/vms.tar" <<'EOF' || bad "no snapshot of VMs"
import sys
sys.path.insert(0, sys.argv[1])
sys.argv[1:] = [sys.argv[2]]
import tar_of
tar_of.write(sys.argv[1], [("vm/a/disk/0", b"disk zero" * 1000),
                           ("vm/a/ram/pc.ram", b"memory" * 3000),
                           ("vm/b/disk/0", b"b zero" * 1000),
                           ("vm/b/disk/1", b"b one" * 1000)])
EOF
run 0 "$VN" import "$DIR/vms.tar"
run 0 "$VN" export t@1 -f raw --vm a -o "$DIR/a0"
cmp "$DIR/a0" <(printf 'disk zero%.0s' {1..1000}) || bad "vm a, disk 0"
run 0 "$VN" export t@1 -f raw --vm a --ram pc.ram -o "$DIR/a1"
cmp "$DIR/a1" <(printf 'memory%.0s' {1..3000}) || bad "vm a, memory"
run 0 "$VN" export t@1 -f raw --vm b --disk 1 -o "$DIR/b1"
cmp "$DIR/b1" <(printf 'b one%.0s' {1..1000}) || bad "vm b, disk 1"
refused export "--disk must say which" t@1 -f raw --vm b -o "$DIR/no"
refused export "several VMs" t@1 -f raw --disk 0 -o "$DIR/no"

# Hostile and foreign ones.
python3 "$HERE/hostile_qcow2.py" "$DIR/hostile" || bad "hostile_qcow2.py"
count=0
made=0
while IFS=$'\t' read -r file text; do
    refused put "$text" evil "$DIR/hostile/$file"
    count=$((count + 1))
done <"$DIR/hostile/refused.txt"
[ $count -ge 15 ] || bad "only $count hostile images"
run 0 "$VN" put opaque --opaque "$DIR/hostile/corrupt.qcow2"
run 0 "$VN" export opaque@1 -f raw -o "$DIR/opaque"
same "$DIR/opaque" "$DIR/hostile/corrupt.qcow2"
refused put "not a qcow2 image" x --format qcow2 "$I/disk"
run 0 "$VN" verify

if ! type qemu-img >/dev/null 2>&1; then
    echo "no qemu-img: its judgement is not asked"
    [ $failures -eq 0 ] && exit 77
    finish
fi
for q in "$DIR/q1" "$DIR/opq"; do
    [ "$q" = "$DIR/q1" ] ||
        run 0 "$VN" export odd@1 -f qcow2 --object odd -o "$q"
    run 0 qemu-img check -f qcow2 "$q"
    says out "No errors were found"
done
run 0 qemu-img compare -f raw -F qcow2 "$I/disk" "$DIR/q1"
for format in raw qcow2; do
    run 0 qemu-img compare -f raw -F $format "$I/large" "$DIR/large.$format"
done
rm "$DIR"/large.*
run 0 qemu-img convert -f qcow2 -O raw "$DIR/opq" "$DIR/op"
cmp -n 70001 "$DIR/op" "$I/odd" || bad "odd size through qcow2"
[ "$(stat -c %s "$DIR/op")" -eq 70144 ] || bad "odd size not in sectors"
run 0 "$VN" export odd@1 -f qcow2 --object empty -o "$DIR/qe"
run 0 qemu-img check -f qcow2 "$DIR/qe"

# All that qemu-img can write is read, and is the disk that it was.
for options in "compat=0.10" "compat=1.1" "cluster_size=512" \
    "cluster_size=4k" "cluster_size=2M" "lazy_refcounts=on" \
    "preallocation=metadata" "refcount_bits=1" \
    "compression_type=zlib -c" "compression_type=zstd -c" \
    "cluster_size=512,compat=0.10 -c" "cluster_size=2M -c" \
    "cluster_size=4k,compression_type=zstd -c"; do
    # shellcheck disable=SC2086
    run 0 qemu-img convert -f raw -O qcow2 -o $options "$I/disk" \
        "$DIR/made.qcow2"
    run 0 "$VN" put "made" "$DIR/made.qcow2" --json
    grep -q '"new": 0' "$DIR/out" || bad "$options: $(cat "$DIR/out")"
    run 0 "$VN" export made@"$((++made))" -f raw -o "$DIR/made.raw"
    same "$I/disk" "$DIR/made.raw"
done
# Zero clusters, written over data; an internal snapshot beside.
if type qemu-io >/dev/null 2>&1; then
    run 0 qemu-img snapshot -c before "$DIR/made.qcow2"
    run 0 qemu-io -f qcow2 -c "write -z 70M 3M" -c "discard 73M 1M" \
        -c "write -P 7 1M 100k" "$DIR/made.qcow2"
    run 0 qemu-img convert -f qcow2 -O raw "$DIR/made.qcow2" "$DIR/now"
    run 0 "$VN" put now "$DIR/made.qcow2"
    run 0 "$VN" export now@1 -f raw -o "$DIR/now.raw"
    same "$DIR/now" "$DIR/now.raw"
fi
run 0 qemu-img create -f qcow2 -b "$I/disk" -F raw "$DIR/top.qcow2"
refused put "backing file" top "$DIR/top.qcow2"
run 0 qemu-img create -f qcow2 -o "data_file=$DIR/ext" "$DIR/e.qcow2" 1M
refused put "external data file" e "$DIR/e.qcow2"
run 0 qemu-img create -f qcow2 -o extended_l2=on "$DIR/x.qcow2" 1M
refused put "extended L2" x "$DIR/x.qcow2"
finish
