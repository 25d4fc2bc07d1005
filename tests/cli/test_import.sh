#!/bin/bash
# Tars that are cut, damaged or made to harm: each is refused in one line, and
# the store is as before. A disk that fills up likewise.
. "${0%/*}/lib.sh"

S=$DIR/store
export VNSTORE_STORE=$S
run 0 "$VN" init "$S"
python3 "$HERE/hostile_tars.py" "$DIR/tars" || bad "hostile_tars.py"

run 0 "$VN" import "$DIR/tars/good.tar"
run 0 "$VN" get t@1 -o "$DIR/good"
printf 'hello\n' | cmp - "$DIR/good/file/a" || bad "the good tar"
run 0 "$VN" delete t@1

count=0
while IFS=$'\t' read -r tar text; do
    refused import "$text" "$DIR/tars/$tar"
    says err "$DIR/tars/$tar"
    count=$((count + 1))
done <"$DIR/tars/refused.txt"
[ $count -ge 15 ] || bad "only $count hostile tars"
refused import "No such file" "$DIR/tars/absent.tar"
refused import "" "$DIR/tars"
run 0 "$VN" list --json
tr -d ' \n' <"$DIR/out" | grep -qF '{"snapshots":[]}' || bad "something is kept"
run 0 "$VN" verify
[ -z "$(find / -maxdepth 1 -name 'vnstore-evil*')$(find "$DIR" -name \
    'vnstore-evil*')" ] || bad "a hostile name was written"

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
