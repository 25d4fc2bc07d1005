#!/bin/bash
# A store's life from the command line: init, put, list, show, get, export,
# import, verify, delete; damage and a full disk.
. "${0%/*}/lib.sh"

S=$DIR/store
W=$DIR/work
mkdir "$W"

# Three images: sparse with odd size, text, empty.
python3 - "$W" <<'PYTHON'
import random, sys
r = random.Random(1)
with open(sys.argv[1] + "/disk.raw", "wb") as f:
    f.truncate(24 << 20)
    for at in (0, 5 << 20, (5 << 20) + 8192, (20 << 20) + 512):
        f.seek(at)
        f.write(r.randbytes(300000))
    f.truncate((24 << 20) + 123)
open(sys.argv[1] + "/notes.txt", "w").write("hello\n")
open(sys.argv[1] + "/empty", "w").close()
PYTHON

json()
{
    python3 -m json.tool "$DIR/out" >/dev/null || bad "not JSON: $*"
}

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

run 0 "$VN" init "$S"
refused init "$S" "$S"
refused init "vn://host" "vn://host"
refused list "$W" -s "$W"
refused list "vn://host" -s "vn://host"
export VNSTORE_STORE=$S
run 0 "$VN" list
run 0 "$VN" list --json
json list
is "$(value 'd["snapshots"]')" "[]" "empty list"
run 0 "$VN" verify

# put
run 0 "$VN" put img "$W/disk.raw" "$W/notes.txt" "$W/empty"
says out "img@1: "
run 0 "$VN" put --json img "$W/disk.raw" "$W/notes.txt" "$W/empty"
json put
is "$(value 'd["name"]')" "img@2" "second put"
is "$(value 'd["bytes"]["new"]')" 0 "nothing new in the second put"
printf x | dd of="$W/disk.raw" bs=1 seek=1000 conv=notrunc status=none
run 0 "$VN" put --json img "$W/disk.raw"
is "$(value 'd["name"]')" "img@3" "third put"
is "$(value 'd["bytes"]["new"]')" 4096 "one page new in the third put"
cp "$W/disk.raw" "$DIR/renamed.raw"
run 0 "$VN" put like "$W/disk.raw"
run 0 "$VN" put --json like "$DIR/renamed.raw"
json put
is "$(value 'd["bytes"]["known"]')" 0 "an image under a new name has a parent"
run 0 "$VN" delete like@1
run 0 "$VN" delete like@2
run 0 "$VN" put named@7 "$W/notes.txt"
refused put "named@7" named@7 "$W/notes.txt"
refused put "$W/absent" img "$W/absent"
refused put "neither a file" img "$W"
mkdir "$W/d" && cp "$W/notes.txt" "$W/d/"
refused put "file/notes.txt" img "$W/notes.txt" "$W/d/notes.txt"
refused put "" "bad/name" "$W/notes.txt"
bash -c 'exec 5>"$3/fd"; "$1" put fd "$2" --progress-fd 5 >/dev/null' - \
    "$VN" "$W/disk.raw" "$DIR" || bad "put --progress-fd"
is "$(tail -n 1 "$DIR/fd")" "100/100" "progress"

# list, show, stats
run 0 "$VN" list
says out "img@3"
says out "files"
run 0 "$VN" list --json
json list
is "$(value '[s["name"] for s in d["snapshots"]][:3]')" \
    "['img@1', 'img@2', 'img@3']" "list"
is "$(value 'd["snapshots"][0]["size_bytes"]')" $(((24 << 20) + 123 + 6)) size
id=$(value 'd["snapshots"][0]["id"]')
run 0 "$VN" show img@1
says out "file/notes.txt"
run 0 "$VN" show --json "${id:0:10}"
json show
is "$(value 'd["name"]')" img@1 "show by id"
refused show "img@99" img@99
run 0 "$VN" stats
run 0 "$VN" stats --json
json stats
is "$(value 'd["snapshots"]')" 5 "stats"

# get
run 0 "$VN" get img@3 -o "$DIR/g"
same "$W/disk.raw" "$DIR/g/file/disk.raw"
[ "$(du -k "$DIR/g/file/disk.raw" | cut -f1)" -lt 4000 ] || bad "not sparse"
refused get "exists" img@3 -o "$DIR/g"
run 0 "$VN" get img@3 -o "$DIR/g" --force
run 0 "$VN" get img@1 file/empty file/notes.txt -o "$DIR/g1"
same "$W/empty" "$DIR/g1/file/empty"
[ ! -e "$DIR/g1/file/disk.raw" ] || bad "an object that was not asked for"
refused get "file/none" img@1 file/none -o "$DIR/g1"
refused get "img@99" img@99 -o "$DIR/g99"
[ ! -e "$DIR/g99" ] || bad "a directory for a snapshot that is not there"
mkdir "$DIR/link" "$DIR/target" && ln -s "$DIR/target" "$DIR/link/file"
refused get "file" img@1 -o "$DIR/link"
[ -z "$(ls "$DIR/target")" ] || bad "get followed a link"
[ -z "$(find "$DIR" -name '.vnstore-*')" ] || bad "a partial file remains"

# export, as others read it
run 0 "$VN" export img@1 -o "$DIR/img.tar"
run 0 tar tvf "$DIR/img.tar"
is "$(awk '{ print $NF }' "$DIR/out" | tr '\n' ' ')" \
    "img@1/manifest.json img@1/file/disk.raw img@1/file/empty \
img@1/file/notes.txt img@1/SHA256SUMS " "tar tvf"
mkdir "$DIR/x"
run 0 tar xf "$DIR/img.tar" -C "$DIR/x"
run 0 env -C "$DIR/x/img@1" sha256sum --strict -c SHA256SUMS
is "$(wc -l <"$DIR/out")" 4 "sums"
[ "$(stat -c %s "$DIR/img.tar")" -lt 2000000 ] || bad "holes in the tar"
python3 -m json.tool "$DIR/x/img@1/manifest.json" >/dev/null || bad manifest
"$VN" export img@1 -o - >"$DIR/again.tar" || bad "export to stdout"
same "$DIR/img.tar" "$DIR/again.tar"
run 0 "$VN" export img@1 -o /dev/null
[ -c /dev/null ] || bad "/dev/null was replaced"
refused export "img@99" img@99 -o "$DIR/none.tar"
[ ! -e "$DIR/none.tar" ] || bad "a tar of a snapshot that is not there"
refused export "$DIR/no" img@1 -o "$DIR/no/x.tar"
refused export "No space" img@1 -o /dev/full

# import into another store
T=$DIR/other
run 0 "$VN" init "$T"
run 0 "$VN" import -s "$T" "$DIR/img.tar"
is "$(cat "$DIR/out")" "img@1" "imported name"
refused import "img@1" -s "$T" "$DIR/img.tar"
run 0 "$VN" get -s "$T" img@1 -o "$DIR/g2"
for file in disk.raw notes.txt empty; do
    same "$DIR/x/img@1/file/$file" "$DIR/g2/file/$file"
done
"$VN" export img@3 -o - | "$VN" -s "$T" import - --name other@3 >"$DIR/out" ||
    bad "import from a pipe"
is "$(cat "$DIR/out")" "other@3" "imported under another name"
run 0 "$VN" get -s "$T" other@3 -o "$DIR/g3"
same "$W/disk.raw" "$DIR/g3/file/disk.raw"
run 0 "$VN" verify -s "$T"
run 0 "$VN" stats -s "$T" --json
chunks=$(value 'd["chunks"]')
run 0 "$VN" import -s "$T" --name twin@1 "$DIR/img.tar"
run 0 "$VN" stats -s "$T" --json
# Of known content only the manifest may be new.
[ $(($(value 'd["chunks"]') - chunks)) -le 1 ] || bad "import stored it twice"

# verify, delete
run 0 "$VN" verify img@1
run 0 "$VN" verify --json
json verify
is "$(value 'd["findings"]')" "[]" "no findings"
refused verify "img@99" img@99
run 0 "$VN" delete img@2
refused delete "img@2" img@2
refused show "img@2" img@2
run 0 "$VN" verify
run 0 "$VN" put --json img "$W/notes.txt"
is "$(value 'd["name"]')" "img@4" "numbers are not used again"

# A damaged pack: found, named; the other commands refuse to return lies.
pack=$(find "$T/packs" -type f -size +100k | head -n 1)
python3 - "$pack" <<'PYTHON'
import os, sys
at = os.path.getsize(sys.argv[1]) // 2
with open(sys.argv[1], "r+b") as f:
    f.seek(at)
    byte = f.read(1)[0]
    f.seek(at)
    f.write(bytes([byte ^ 0x40]))
PYTHON
run 1 "$VN" verify -s "$T"
name=$(basename "$pack")
says out "${name%%.*}"
run 1 "$VN" verify -s "$T" --json
json verify
[ "$(value 'len(d["findings"])')" -ge 1 ] || bad "no finding in --json"
refused get "" -s "$T" img@1 -o "$DIR/g4"
[ ! -e "$DIR/g4/file/disk.raw" ] || bad "get left a damaged file"
refused export "" -s "$T" img@1 -o "$DIR/damaged.tar"
[ ! -e "$DIR/damaged.tar" ] || bad "export left a damaged tar"
finish
