#!/bin/bash
# Tars that are cut, damaged or made to harm: each is refused in one line, and
# the store is as before. A disk that fills up likewise.
. "${0%/*}/lib.sh"

S=$DIR/store
export VNSTORE_STORE=$S
run 0 "$VN" init "$S"
python3 "$HERE/hostile_tars.py" "$DIR/tars" || bad "hostile_tars.py"

# Nothing of a hostile one reaches the packs, in a store that has none yet.
count=0
while IFS=$'\t' read -r tar text; do
    refused import "$text" "$DIR/tars/$tar"
    says err "$DIR/tars/$tar"
    count=$((count + 1))
done <"$DIR/tars/refused.txt"
[ $count -ge 90 ] || bad "only $count hostile tars"
[ -z "$(find "$S/packs" -name '*.pack')" ] || bad "something was written"
run 0 "$VN" import "$DIR/tars/good.tar"
run 0 "$VN" get t@1 -o "$DIR/good"
printf 'hello\n' | cmp - "$DIR/good/file/a" || bad "the good tar"
run 0 "$VN" delete t@1
run 0 "$VN" import "$DIR/tars/names.tar" --json
says out '"name": "t@1"'
says out '"new": 12288'
run 0 "$VN" delete t@1
refused import "No such file" "$DIR/tars/absent.tar"
refused import "" "$DIR/tars"
run 0 "$VN" list --json
tr -d ' \n' <"$DIR/out" | grep -qF '{"snapshots":[]}' || bad "something is kept"
run 0 "$VN" verify
[ -z "$(find / -maxdepth 1 -name 'vnstore-evil*')$(find "$DIR" -name \
    'vnstore-evil*')" ] || bad "a hostile name was written"

# Names that differ by their normal form only, through a tar and back; then
# an incremental tar of the second to a store that has the first.
printf 'one' >"$DIR/$(printf '\303\251')"
printf 'two' >"$DIR/$(printf 'e\314\201')"
head -c 3000000 /dev/urandom >"$DIR/image"
run 0 "$VN" init "$DIR/from"
for i in 1 2; do
    run 0 "$VN" put -s "$DIR/from" names "$DIR/$(printf '\303\251')" \
        "$DIR/$(printf 'e\314\201')" "$DIR/image"
    printf 'changed' | dd of="$DIR/image" bs=1 seek=1000000 conv=notrunc 2>&1 |
        grep -v -e records -e copied
done
run 0 "$VN" export -s "$DIR/from" names@1 -o "$DIR/names1.tar"
run 0 "$VN" export -s "$DIR/from" names@2 --since names@1 -o "$DIR/names2.tar"
[ "$(stat -c %s "$DIR/names2.tar")" -lt 60000 ] || bad "not incremental"
refused import "based on" "$DIR/names2.tar"
run 0 "$VN" import "$DIR/names1.tar"
run 0 bash -c '"$1" import - --json <"$2"' - "$VN" "$DIR/names2.tar"
says out '"unchanged"'
run 0 "$VN" get names@2 -o "$DIR/names"
printf 'one' | cmp - "$DIR/names/file/$(printf '\303\251')" || bad "name 1"
printf 'two' | cmp - "$DIR/names/file/$(printf 'e\314\201')" || bad "name 2"
run 0 "$VN" get -s "$DIR/from" names@2 -o "$DIR/names.from"
same "$DIR/names.from/file/image" "$DIR/names/file/image"
run 64 "$VN" import --max-size nonsense "$DIR/names1.tar"
refused import "at most 1048576" --max-size 1M --name n@9 "$DIR/names1.tar"

# A full disk: a clear error, and the store stays sound.
if [ "$(id -u)" -ne 0 ] || ! mkdir "$DIR/small" ||
    ! mount -t tmpfs -o size=8m vn-cli "$DIR/small" 2>/dev/null; then
    echo "no small file system can be mounted: full disk not tried"
    [ $failures -eq 0 ] && exit 77
    finish
fi
MOUNT=$DIR/small
head -c 2000000 /dev/urandom >"$DIR/fits"
head -c 20000000 /dev/urandom >"$DIR/large"
run 0 "$VN" init "$DIR/small/store"
run 0 "$VN" put -s "$DIR/small/store" fits "$DIR/fits"
refused put "No space" -s "$DIR/small/store" large "$DIR/large"
run 0 "$VN" verify -s "$DIR/small/store"
run 0 "$VN" put large "$DIR/large"
run 0 "$VN" export large@1 -o "$DIR/large.tar"
refused import "No space" -s "$DIR/small/store" "$DIR/large.tar"
refused export "No space" large@1 -o "$DIR/small/large.tar"
[ ! -e "$DIR/small/large.tar" ] || bad "a partial tar remains"
run 0 "$VN" verify -s "$DIR/small/store"
run 0 "$VN" get -s "$DIR/small/store" fits@1 -o "$DIR/fits.out"
same "$DIR/fits" "$DIR/fits.out/file/fits"
finish
