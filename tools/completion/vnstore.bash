# bash completion for vnstore. Snapshot names come from the store itself; for
# bash to see lab@1 as one word, "@" must not break words.

COMP_WORDBREAKS=${COMP_WORDBREAKS//@/}

_vnstore_store()
{
    local i
    for ((i = 1; i < ${#COMP_WORDS[@]} - 1; i++)); do
        case ${COMP_WORDS[i]} in
        -s | --store) echo "${COMP_WORDS[i + 1]}" && return ;;
        esac
    done
    echo "$VNSTORE_STORE"
}

_vnstore_snapshots()
{
    local store
    store=$(_vnstore_store)
    [ -n "$store" ] || return
    vnstore --store "$store" list 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_vnstore()
{
    local current=${COMP_WORDS[COMP_CWORD]}
    local previous=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="init up down snapshot restore put get list show diff delete
        prune gc export import verify repair stats doctor"
    local common="--help --usage --version"
    local progress="--quiet --progress-fd"
    local command="" options="" i skip=

    for ((i = 1; i < COMP_CWORD; i++)); do
        if [ -n "$skip" ]; then
            skip=
            continue
        fi
        case ${COMP_WORDS[i]} in
        -s | --store) skip=1 ;;
        -*) ;;
        *)
            command=${COMP_WORDS[i]}
            break
            ;;
        esac
    done
    COMPREPLY=()
    case $previous in
    -s | --store | -o | --output | --tls-dir | --hosts)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    -m | --mode)
        mapfile -t COMPREPLY < <(compgen -W "cow precopy stop" -- "$current")
        return
        ;;
    --id)
        mapfile -t COMPREPLY < <(compgen -W "blake3 sha256" -- "$current")
        return
        ;;
    -f | --format)
        if [ "$command" = export ]; then
            mapfile -t COMPREPLY < <(compgen -W "tar xl raw qcow2" -- \
                "$current")
            return
        elif [ "$command" = put ]; then
            mapfile -t COMPREPLY < <(compgen -W "auto raw qcow2" -- "$current")
            return
        fi
        ;;
    --since)
        mapfile -t COMPREPLY < <(compgen -W "$(_vnstore_snapshots)" -- \
            "$current")
        return
        ;;
    --recompress)
        mapfile -t COMPREPLY < <(compgen -W "zstd zstd:12" -- "$current")
        return
        ;;
    --progress-fd | -n | --name | --timeout | --to-hosts | --map | --vm | \
        --disk | --ram | --object | \
        --max-size | --domain | \
        --threshold | --wait | --keep-*)
        return
        ;;
    esac
    case $command in
    "") options="--store $common $commands" ;;
    init) options="--id $common" ;;
    up | down) options="--tls-dir $common" ;;
    snapshot)
        options="--store --name --mode --timeout --tls-dir --json $progress
            $common"
        ;;
    restore)
        options="--store --to-hosts --map --hosts --tls-dir --json $progress
            $common"
        ;;
    put)
        options="--store --domain --opaque --format --json $progress $common"
        ;;
    get) options="--store --output --force $progress $common" ;;
    list | stats | show) options="--store --json $common" ;;
    diff) options="--store --ranges --json $common" ;;
    delete) options="--store $common" ;;
    prune)
        options="--store --keep-last --keep-hourly --keep-daily --keep-weekly
            --keep-monthly --dry-run --json $common"
        ;;
    gc)
        options="--store --dry-run --threshold --recompress --wait --json
            $progress $common"
        ;;
    verify) options="--store --fast --resume --json $progress $common" ;;
    repair)
        options="--store --dry-run --rebuild-index --json $progress $common"
        ;;
    export)
        options="--store --output --since --format --vm --disk --ram --object
            $progress $common"
        ;;
    import)
        options="--store --name --since --domain --max-size --json $progress
            $common"
        ;;
    doctor) options="--json $common" ;;
    esac
    if [ -z "$command" ] || [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
        return
    fi
    case $command in
    get | show | diff | delete | verify | export | restore)
        mapfile -t COMPREPLY < <(compgen -W "$(_vnstore_snapshots)" -- \
            "$current")
        ;;
    prune)
        mapfile -t COMPREPLY < <(compgen -W \
            "$(_vnstore_snapshots | sed -n 's/@[0-9]*$//p' | sort -u)" -- \
            "$current")
        ;;
    init | put | import | up | down | snapshot)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    esac
}
complete -o filenames -F _vnstore vnstore
