# Sourced by the other scripts: makes the project's own environment in .venv (MLNT_VENV names another place) with the
# versions of constraints.txt, and puts it first on PATH. Needs CPython 3.11 to 3.13 (MLNT_PYTHON names one) and a
# package index. A second call finds it made and installs nothing.
#   install_environment [EXTRA]

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${MLNT_PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "mlnt_tf: no CPython 3.11 to 3.13 found; install one, or name it: MLNT_PYTHON=/path/to/python bash $0" >&2
    return 1
}

install_environment() {
    local place="${MLNT_VENV:-$PWD/.venv}" what=".${1:+[$1]}" python stamp note
    stamp="$(cat setup.py launch/constraints.txt | cksum) $PWD"
    note="$place/installed${1:+-$1}"
    if [ "$(cat "$note" 2>/dev/null)" != "$stamp" ]; then
        python="$(find_python)"
        echo "installing into $place, a minute or two"
        "$python" -m venv "$place"
        "$place/bin/python" -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt -e "$what"
        echo "$stamp" > "$note"
    fi
    export PATH="$place/bin:$PATH"
}
