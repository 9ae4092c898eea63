# Completions of gearmang's tools for bash: written by completions/generate, do not edit.

# The candidates of a source, one a line; what they are, behind a tab, has no place here.
_gearmang_candidates() {   # SOURCE WORD TOOL TYPED...
    local source=$1 word=$2 tool=$3
    case $source in
        ask\ *) GM_COMPLETE="${source#ask } $word" command "$tool" "${@:4}" 2>/dev/null </dev/null | cut -f 1 ;;
        list\ *) printf '%s\n' ${source#list } ;;
        command) compgen -c -- "$word" ;;
    esac
}

_gearmang() {
    local tool=${1##*/} line=${COMP_LINE:0:COMP_POINT} words=() flags= valued= operands= many= command=
    read -r -a words <<<"$line"
    [[ $line == *[[:blank:]] ]] && words+=("")
    local last=$((${#words[@]} - 1)) at=1 place=0 word source= before= dashes= after= candidate
    local current=${words[last]}

    _gearmang_table "$tool" || return
    while ((at < last)); do   # what the word under the cursor is
        word=${words[at]}
        if [[ $command && $place == 1 && $word == -- && ! $after ]]; then
            after=1   # FUNCTION -- COMMAND
        elif [[ $dashes || $word != -?* ]]; then
            ((++place == 1)) && [[ $command ]] && dashes=1
            [[ $command && $place == 2 ]] && break
        elif [[ $word == -- ]]; then
            dashes=1
        elif [[ $word != *=* && $valued == *" $word:"* ]]; then
            ((at + 1 == last)) && source=$word
            ((at++))
        fi
        ((at++))
    done

    if [[ $command && $place -ge 2 ]]; then
        source=files
    elif [[ $source ]]; then
        source=${valued#*" $source:"} source=${source%%;*}
    elif [[ ! $dashes && $current == --*=* ]]; then
        before=${current%%=*}= source=none
        [[ $valued == *" ${before%=}:"* ]] && source=${valued#*" ${before%=}:"} source=${source%%;*}
    elif [[ ! $dashes && $current == -* ]]; then
        COMPREPLY=()
        for candidate in $flags; do
            [[ $candidate == "$current"* ]] && COMPREPLY+=("$candidate ")
        done
        while read -r -d ';' candidate; do
            candidate=${candidate%%:*}
            [[ $candidate == "$current"* ]] || continue
            [[ $candidate == --* ]] && COMPREPLY+=("$candidate=") || COMPREPLY+=("$candidate ")
        done <<<"$valued"
        return
    else
        local IFS=';'
        set -- $operands
        ((place < $#)) && shift "$place" || { [[ $many ]] && shift $(($# ? $# - 1 : 0)) || return; }
        source=$1
        unset IFS
    fi

    local value=${current#"$before"} typed=() quoted cut=
    # readline replaces only what stands behind the last = or : of the word
    case $COMP_WORDBREAKS in *[=:]*) [[ $value == *[=:]* ]] && cut=${value%"${value##*[=:]}"} ;; esac
    COMPREPLY=()
    if [[ $source == files ]]; then
        compopt -o filenames +o nospace 2>/dev/null
        while IFS= read -r candidate; do
            COMPREPLY+=("${candidate#"$cut"}")
        done < <(compgen -f -- "$value")
        return
    fi
    typed=("${words[@]:1:last-1}")
    while IFS= read -r candidate; do
        printf -v quoted %q "$candidate"
        [[ $quoted == "$value"* ]] && COMPREPLY+=("${quoted#"$cut"} ")
    done < <(_gearmang_candidates "$source" "${value//\\/}" "$tool" "${typed[@]}")
}

# The options of a tool and what completes their values and its operands.
_gearmang_table() {
    case $1 in
        gm-at)
            flags='-0 --null --unique-data --strict --json -q --quiet -h --help --version'
            valued=' -u:ask KEY; --unique:ask KEY; --priority:list high normal low; --quarantine:files; -s:none; --server:none;'
            operands='none;ask FUNCTION;files'
            many=1 ;;
        gm-blueox)
            flags='-h --help --version'
            operands='none' ;;
        gm-bury)
            flags='--strict -q --quiet --json -h --help --version'
            valued=' --quarantine:files;' ;;
        gm-check)
            flags='--round-trip -h --help --version'
            valued=' -w:none; --warning:none; -c:none; --critical:none; -f:ask GLOB; --function:ask GLOB; --exclude:ask GLOB; --window:none; -t:none; --timeout:none; --quarantine:files; -s:none; --server:none;'
            operands='list queue workers age dead server' ;;
        gm-collect)
            flags='--until-empty -q --quiet -h --help --version'
            valued=' --quarantine:files; -s:none; --server:none;'
            operands='ask FUNCTION' ;;
        gm-collectd)
            flags='-h --help --version'
            valued=' --interval:none; --quarantine:files; -s:none; --server:none;' ;;
        gm-dead)
            flags='--delayed --newest --follow --group --data --json --table -h --help --version'
            valued=' -f:ask GLOB; --function:ask GLOB; -r:list error timeout crash lost hung rejected collected drained; --reason:list error timeout crash lost hung rejected collected drained; -m:none; --match:none; -u:ask KEY; --unique:ask KEY; --fingerprint:ask HEX; --since:none; --until:none; --after:ask ID; -n:none; --limit:none; --quarantine:files;'
            operands='ask ID'
            many=1 ;;
        gm-drain)
            flags='--json -q --quiet -h --help --version'
            valued=' --why:none; --quarantine:files; -s:none; --server:none;'
            operands='ask FUNCTION' ;;
        gm-drop)
            flags='--ids --strict -q --quiet --json -h --help --version'
            valued=' --why:none; --quarantine:files;'
            operands='ask ID'
            many=1 ;;
        gm-history)
            flags='--newest --json --table -h --help --version'
            valued=' -f:ask GLOB; --function:ask GLOB; -u:ask KEY; --unique:ask KEY; --fingerprint:ask HEX; --action:list requeue drop bury drain at pause resume; --user:none; --since:none; --until:none; --after:none; -n:none; --limit:none; --quarantine:files;'
            operands='ask ID'
            many=1 ;;
        gm-pause)
            flags='--json -q --quiet -h --help --version'
            valued=' --until:none; --why:none; --quarantine:files; -s:none; --server:none;'
            operands='ask FUNCTION'
            many=1 ;;
        gm-python)
            flags='-h --help --version'
            valued=' --setup:none; --teardown:none;'
            operands='none' ;;
        gm-reap)
            flags='--kill --release --json --table -h --help --version'
            valued=' --older-than:none; --job-older-than:none; --grace:none; --quarantine:files;' ;;
        gm-requeue)
            flags='--edit --ids --wait --strict -q --quiet --json -h --help --version'
            valued=' --rate:none; --why:none; --quarantine:files; -s:none; --server:none;'
            operands='ask ID'
            many=1 ;;
        gm-resume)
            flags='--json -q --quiet -h --help --version'
            valued=' --why:none; --quarantine:files;'
            operands='ask FUNCTION'
            many=1 ;;
        gm-salvage)
            flags='--check --json -h --help --version'
            valued=' --table:none;'
            operands='files' ;;
        gm-server)
            flags='-h --help --version'
            valued=' --store:files; --listen:none; --port:none;'
            operands='none'
            many=1 ;;
        gm-status)
            flags='--busy --days --by-server --workers --prometheus --json --table -h --help --version'
            valued=' -f:ask GLOB; --function:ask GLOB; --every:none; --quarantine:files; -s:none; --server:none;' ;;
        gm-submit)
            flags='-0 --null --unique-data --wait --strict --json -q --quiet -h --help --version'
            valued=' -u:none; --unique:none; --priority:list high normal low; -s:none; --server:none;'
            operands='ask FUNCTION;files'
            many=1 ;;
        gm-syslog)
            flags='--all --tcp -h --help --version'
            operands='none' ;;
        gm-tally)
            flags='--json --table -h --help --version'
            valued=' --every:none;' ;;
        gm-work)
            flags='--pipe --until-empty --foreground -q --quiet -h --help --version'
            valued=' -j:none; --jobs:none; -t:none; --timeout:none; --max-age:none; --max-jobs:none; --grace:none; --tries:none; --delay:none; --max-delay:none; --exit:none; --brake:none; --via:ask FUNCTION; --quarantine:files; -s:none; --server:none;'
            operands='ask FUNCTION;command;none'
            many=1
            command=1 ;;
        *) return 1 ;;
    esac
}

complete -o nospace -F _gearmang gm-at gm-blueox gm-bury gm-check gm-collect gm-collectd gm-dead gm-drain gm-drop gm-history gm-pause gm-python gm-reap gm-requeue gm-resume gm-salvage gm-server gm-status gm-submit gm-syslog gm-tally gm-work
