#!/bin/bash
# Files of `xl save`: taken apart by put, put together again by export.
. "${0%/*}/lib.sh"

S=$DIR/store
XL="python3 $HERE/xl_file.py"
export VNSTORE_STORE=$S PYTHONDONTWRITEBYTECODE=1
run 0 "$VN" init "$S"

# value EXPRESSION: of the JSON in $DIR/out, as Python.
value()
{
    python3 -c 'import json, sys
d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$DIR/out" "$1"
}

is()
{
    [ "$1" = "$2" ] || bad "'$1' is not '$2' ($3)"
}

# same_domain FILE FILE ORDER: the same, and the second with records in ORDER.
same_domain()
{
    $XL dump "$1" >"$DIR/dump1" 2>"$DIR/order1" || bad "dump of $1"
    $XL dump "$2" >"$DIR/dump2" 2>"$DIR/order2" || bad "dump of $2"
    cmp -s "$DIR/dump1" "$DIR/dump2" || {
        bad "'$1' and '$2' are not the same domain"
        diff "$DIR/dump1" "$DIR/dump2" | head -n 5 >&2
    }
    is "$(cat "$DIR/order2")" "order $3" "order of records"
}

# The verifier that comes with Xen, where it is.
find_verifier()
{
    local dir
    for dir in "${XEN_TOOLS:-/nowhere}" /usr/lib/xen-*/bin; do
        if [ -x "$dir/verify-stream-v2" ]; then
            echo "$dir"
            return
        fi
    done
}
verifier=$(find_verifier)
[ -n "$verifier" ] || echo "verify-stream-v2 is not there: not asked"

verified()
{
    [ -n "$verifier" ] || return
    PYTHONPATH="$verifier/../lib/python" "$verifier/verify-stream-v2" \
        -f xl -i "$1" >"$DIR/out" 2>&1 ||
        bad "verify-stream-v2 refuses $1: $(tail -n 2 "$DIR/out")"
}

hvm_order="[17, 18, 16, 8, 10, 9]"
pv_order="[2, 17, 18, 16, 3, 8, 7, 4, 5, 6, 12]"

# In and out again, for each type.
for type in pvh hvm pv; do
    $XL make "$DIR/$type.save" $type web-$type
    run 0 "$VN" put $type "$DIR/$type.save"
    says out "$type@1: "
    run 0 "$VN" export $type@1 --format xl -o "$DIR/$type.out"
    order=$hvm_order
    [ $type != pv ] || order=$pv_order
    same_domain "$DIR/$type.save" "$DIR/$type.out" "$order"
    verified "$DIR/$type.out"
    [ "$(stat -c %a "$DIR/$type.out")" = 600 ] || bad "mode of $type.out"
done

# The same pages are in the objects, those of a domain with pages below 4 GiB
# in no more windows of 2 MiB than it has memory in.
for type in pvh hvm pv; do
    run 0 "$VN" get $type@1 -o "$DIR/$type.get"
    dir=$DIR/$type.get/vm/web-$type
    $XL objects "$dir/xen.types" "$dir/ram/memory" >"$DIR/pages" ||
        bad "objects of $type"
    $XL dump "$DIR/$type.save" 2>/dev/null | grep ^page >"$DIR/wanted"
    same "$DIR/wanted" "$DIR/pages"
    windows=5
    [ $type != pv ] || windows=4
    is "$(stat -c %s "$dir/ram/memory")" $((windows * 2097152)) "size of memory"
done

# What became of it.
run 0 "$VN" show --json hvm@1
is "$(value 'd["kind"]')" vm kind
is "$(value 'sorted(d["objects"])')" "['vm/web-hvm/device.state', \
'vm/web-hvm/ram/memory', 'vm/web-hvm/xen.emulator', 'vm/web-hvm/xen.head', \
'vm/web-hvm/xen.types']" objects
is "$(value 'd["meta"]["vm_state"]["web-hvm"]["backend"]')" xen backend
is "$(value 'd["meta"]["vm_state"]["web-hvm"]["type"]')" hvm type
run 0 "$VN" show pvh@1
says out "vm/web-pvh/ram/memory"
run 0 "$VN" list
says out "vm "
run 0 "$VN" verify

# The next save: what changed, and the tail.
$XL make "$DIR/second.save" pvh web-pvh 3
bash -c 'exec 5>"$3/fd"; "$1" put --json pvh "$2" --progress-fd 5 >"$3/out"' - \
    "$VN" "$DIR/second.save" "$DIR" || bad "put --progress-fd"
is "$(tail -n 1 "$DIR/fd")" "100/100" progress
is "$(value 'd["name"]')" pvh@2 "second put"
is "$(value 'd["bytes"]["new"]')" $((4 * 4096)) "new in the second put"
run 0 "$VN" export pvh@2 --vm web-pvh -f xl -o "$DIR/second.out"
same_domain "$DIR/second.save" "$DIR/second.out" "$hvm_order"
run 0 "$VN" export pvh@1 -f xl -o "$DIR/first.again"
same "$DIR/pvh.out" "$DIR/first.again"

# To a pipe, to standard output; progress.
mkfifo "$DIR/fifo"
cat "$DIR/fifo" >"$DIR/from.fifo" &
reader=$!
run 0 "$VN" export pvh@1 -f xl -o "$DIR/fifo"
wait $reader
same "$DIR/pvh.out" "$DIR/from.fifo"
[ -p "$DIR/fifo" ] || bad "the named pipe was replaced"
"$VN" export pvh@1 -f xl -o - --progress-fd 2 >"$DIR/std.out" 2>"$DIR/fd" ||
    bad "export to standard output"
same "$DIR/pvh.out" "$DIR/std.out"
is "$(tail -n 1 "$DIR/fd")" "100/100" progress
"$VN" export pvh@1 -f xl -o - 2>"$DIR/err" | head -c 1000 >"$DIR/out"
is "${PIPESTATUS[0]}" 1 "the reader of a pipe is gone"
says err "Broken pipe"
refused export "No space" pvh@1 -f xl -o /dev/full

# Several at once, and a disk with them; names made valid; as a tar.
$XL make "$DIR/odd.save" pvh '../we b/ä'
echo disk >"$DIR/disk.raw"
run 0 "$VN" put many "$DIR/odd.save" "$DIR/disk.raw" "$DIR/pv.save"
run 0 "$VN" show --json many@1
is "$(value 'd["kind"]')" vm "kind of a mixture"
is "$(value 'sorted(d["meta"]["vm_state"])')" "['_._we_b___', 'web-pv']" names
is "$(value '"file/disk.raw" in d["objects"]')" True "the disk"
refused export "--vm" many@1 -f xl -o "$DIR/none"
says err "web-pv"
refused export "other" many@1 -f xl --vm other -o "$DIR/none"
run 0 "$VN" export many@1 -f xl --vm web-pv -o "$DIR/many.out"
same_domain "$DIR/pv.save" "$DIR/many.out" "$pv_order"
run 0 "$VN" export many@1 -o "$DIR/many.tar"
run 0 "$VN" init "$DIR/other"
run 0 "$VN" import -s "$DIR/other" "$DIR/many.tar"
run 0 "$VN" export -s "$DIR/other" many@1 -f xl --vm web-pv -o "$DIR/other.out"
same "$DIR/many.out" "$DIR/other.out"
refused put "web-pv" twice "$DIR/pv.save" "$DIR/pv.save"

# As it is.
run 0 "$VN" put opaque --opaque "$DIR/pvh.save"
run 0 "$VN" show --json opaque@1
is "$(value 'd["kind"]')" files "kind with --opaque"
run 0 "$VN" get opaque@1 -o "$DIR/opaque"
same "$DIR/pvh.save" "$DIR/opaque/file/pvh.save"
refused export "has no VM" opaque@1 -f xl -o "$DIR/none"
refused restore "not of a VNE" pvh@1
[ ! -e "$DIR/none" ] || bad "a file of a domain that is not there"

# Cut and hostile files: refused in one line, and nothing is kept.
run 0 "$VN" list --json
before=$(value 'len(d["snapshots"])')
$XL bad "$DIR/bad" || bad "xl_file.py bad"
count=0
while IFS=$'\t' read -r file text; do
    refused put "$text" hostile "$DIR/bad/$file"
    says err "$DIR/bad/$file"
    says err "--opaque"
    count=$((count + 1))
done <"$DIR/bad/refused.txt"
[ $count -ge 35 ] || bad "only $count hostile files"
run 0 "$VN" put hostile --opaque "$DIR/bad/type-5"
run 0 "$VN" list --json
is "$(value 'len(d["snapshots"])')" $((before + 1)) "snapshots"
run 0 "$VN" verify

# Usage.
run 64 "$VN" export pvh@1 -f zip -o x
says err "is not tar, xl, raw or qcow2"
run 64 "$VN" export pvh@1 --vm web-pvh -o x
says err "another --format"
finish
