# What the examples' run scripts share: to say what is done, to do it, and to check what comes of it. Source it in bash.
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$examples/.." && pwd)
name=$(basename "$(cd "$(dirname "$0")" && pwd)")

fail() { echo "$name: $*" >&2; exit 1; }
misuse() { echo "$name: $*; try --help" >&2; exit 2; }
tell() { echo; printf '# %s\n' "$@"; }

show() {   # say a command, then do it
    printf '$ %s\n' "$1"
    eval "$1" || fail "exit status $?: $1"
}

expect() {   # expect WHAT WANTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected $2, found ${3:-nothing}"
    printf '  ok: %s: %s\n' "$1" "$3"
}

count() { grep -c -e "$1" "$2" || true; }   # count PATTERN FILE: lines that match

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }   # the comment that $0 begins with

check_folder() {   # of an operand: it is a new or an empty folder
    case $1 in
        -* | '') misuse "not a folder: '$1'" ;;
    esac
    [ ! -e "$1" ] || { [ -d "$1" ] && [ -z "$(ls -A "$1")" ]; } || misuse "$1: not an empty folder"
}

work_in() {   # work_in DEFAULT IMPORTS [FOLDER]: a folder to work in, and on the PATH the tools and a python3 that can import
    # all of IMPORTS; where there is none, .ci/setup $target makes one
    if [ $# = 2 ]; then
        out=$1
        rm -rf "$out"
    else
        out=$3
    fi
    export PATH="$root/bin:$PATH:$root/.venv/bin:/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin"
    if ! python3 -c "$2" 2>/dev/null; then
        "$root/.ci/setup" "${target=demo}"
        PATH="$root/bin:$root/.venv/bin:$PATH"
        python3 -c "$2" || fail "$root/.ci/setup $target did not make a python3 that has all it needs"
    fi
    mkdir -p "$out"
    cd "$out"
    [ -t 1 ] || export COLUMNS=120
}

status() {   # status NUMBER [FUNCTION]: waiting, running, delayed, dead of one function, or of all, as gm-status has it
    local rows
    rows=$(gm-status --json) || return
    python3 -c 'import json, sys
rows = map(json.loads, sys.argv[3].splitlines())
print(sum(row[number] for row in rows for number in sys.argv[1].split("+") if sys.argv[2] in ("", row["function"])))' \
        "$1" "${2-}" "$rows"
}

speeds() {   # a line per record of gm-tally: how many, and the seconds they took
    jq -rn '["", "", "count", "p50", "p99", "longest"], (inputs | [.function, .event, .count, .duration.p50, .duration.p99, .duration.max])
        | [.[] | if type == "number" then . * 10000 | round / 10000 | tostring else . end]
        | [range(6) as $n | (" " * 16) as $blank | if $n < 2 then (.[$n] + $blank)[:16] else ($blank + .[$n])[-9:] end] | add'
}

free_port() {   # below the range that connections take theirs from
    python3 -c 'import random, socket
for port in random.sample(range(20000, 32000), 100):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            break
print(port)'
}

start_server() {   # start_server COMMAND: a server on $port in the background, and the tools pointed at it
    show "$1 >>server.log 2>&1 &"
    server=$!
    [ "${GM_SERVERS-}" = "127.0.0.1:$port" ] || show "export GM_SERVERS=127.0.0.1:$port GM_QUARANTINE=\$PWD/quarantine.db"
    for _ in {1..100}; do
        ! gm-status >/dev/null 2>&1 || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat server.log >&2
    fail "the server does not answer"
}

end() {   # end PID...: stop what this script started
    local pid
    for pid; do
        { kill "$pid" && wait "$pid"; } 2>/dev/null || true
    done
}

clean_up() {
    # shellcheck disable=SC2086  # one word each
    end ${helpers-} ${workers-} ${server-}
}

unset "${!GM_@}"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
