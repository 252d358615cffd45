# Made by `sttctl completion bash`; changes here are lost.
_sttctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command="" word
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            status|models|load|unload|pull|sessions|close|drain|undrain|config|reload|watch|transcribe|listen|dictate|doctor|raw|completion) command=$word; break ;;
        esac
    done
    case "$command $prev" in
        *" --socket") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "status --interval") COMPREPLY=(); return ;;
        "load --cpu-threads") COMPREPLY=(); return ;;
        "load --num-workers") COMPREPLY=(); return ;;
        "load --keep-alive") COMPREPLY=(); return ;;
        "pull --revision") COMPREPLY=(); return ;;
        "pull --source") COMPREPLY=(); return ;;
        "sessions --limit") COMPREPLY=(); return ;;
        "drain --timeout") COMPREPLY=(); return ;;
        "transcribe --format"|"transcribe -f") COMPREPLY=($(compgen -W "txt srt vtt json jsonl tsv" -- "$cur")); return ;;
        "transcribe --output"|"transcribe -o") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "transcribe --language"|"transcribe -l") COMPREPLY=($(compgen -W "auto af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh" -- "$cur")); return ;;
        "transcribe --languages") COMPREPLY=(); return ;;
        "transcribe --model"|"transcribe -m") COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"local": *true' | cut -d '"' -f 4)" -- "$cur")); return ;;
        "transcribe --prompt") COMPREPLY=(); return ;;
        "transcribe --url") COMPREPLY=(); return ;;
        "transcribe --token-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "transcribe --ca") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "listen --language"|"listen -l") COMPREPLY=($(compgen -W "auto af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh" -- "$cur")); return ;;
        "listen --languages") COMPREPLY=(); return ;;
        "listen --model"|"listen -m") COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"local": *true' | cut -d '"' -f 4)" -- "$cur")); return ;;
        "listen --prompt") COMPREPLY=(); return ;;
        "listen --url") COMPREPLY=(); return ;;
        "listen --token-file") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "listen --ca") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "listen --names") COMPREPLY=(); return ;;
        "listen --device") COMPREPLY=(); return ;;
        "listen --sink") COMPREPLY=(); return ;;
        "listen --output"|"listen -o") COMPREPLY=($(compgen -f -- "$cur")); return ;;
        "listen --format"|"listen -f") COMPREPLY=($(compgen -W "txt srt vtt json jsonl tsv" -- "$cur")); return ;;
        "dictate --type") COMPREPLY=($(compgen -W "wayland x11 portal wtype dotool ydotool xdotool clipboard" -- "$cur")); return ;;
        "dictate --language"|"dictate -l") COMPREPLY=($(compgen -W "auto af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh" -- "$cur")); return ;;
        "dictate --languages") COMPREPLY=(); return ;;
        "dictate --model"|"dictate -m") COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"local": *true' | cut -d '"' -f 4)" -- "$cur")); return ;;
        "dictate --device") COMPREPLY=(); return ;;
    esac
    case $command in
        "") COMPREPLY=($(compgen -W "status models load unload pull sessions close drain undrain config reload watch transcribe listen dictate doctor raw completion --json --socket --help --version" -- "$cur")) ;;
        status)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--watch -w --interval --json --socket --help" -- "$cur"))
            fi ;;
        models)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            fi ;;
        load)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--cpu-threads --num-workers --keep-alive --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"local": *true' | cut -d '"' -f 4)" -- "$cur"))
            fi ;;
        unload)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--no-wait --all --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"loaded": *true' | cut -d '"' -f 4)" -- "$cur"))
            fi ;;
        pull)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--revision --source --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "$(sttctl --json models 2>/dev/null | grep -o '"preset": *"[^"]*"[^{}]*"local": *false' | cut -d '"' -f 4)" -- "$cur"))
            fi ;;
        sessions)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--limit --json --socket --help" -- "$cur"))
            fi ;;
        close)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--no-drain --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "$(sttctl --json sessions 2>/dev/null | grep -o '"session": *"[^"]*"' | cut -d '"' -f 4)" -- "$cur"))
            fi ;;
        drain)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--wait --timeout --json --socket --help" -- "$cur"))
            fi ;;
        undrain)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            fi ;;
        config)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            else
                COMPREPLY=()
            fi ;;
        reload)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            fi ;;
        watch)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "sessions models transcripts health" -- "$cur"))
            fi ;;
        transcribe)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--format -f --output -o --language -l --languages --model -m --prompt --translate --url --token-file --ca --words --quiet -q --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -f -- "$cur"))
            fi ;;
        listen)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--language -l --languages --model -m --prompt --translate --url --token-file --ca --system --both --names --device --sink --output -o --format -f --force --words --once --json --socket --help" -- "$cur"))
            fi ;;
        dictate)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--toggle --once --hold --revise --type --language -l --languages --model -m --device --sound --no-notify --json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "start stop cancel bind status quit" -- "$cur"))
            fi ;;
        doctor)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            fi ;;
        raw)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "hello ping status models load unload pull sessions close_session config reload subscribe unsubscribe drain undrain shutdown describe" -- "$cur"))
            fi ;;
        completion)
            if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W "--json --socket --help" -- "$cur"))
            else
                COMPREPLY=($(compgen -W "bash zsh fish" -- "$cur"))
            fi ;;
    esac
}
complete -o filenames -F _sttctl sttctl
