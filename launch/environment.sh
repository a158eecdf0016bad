# Sourced by the other scripts, from any directory: enters the repository and defines `prepare_environment`.
#   MLNT_PYTHON  the Python to build on (otherwise the first of python3.11, 3.12, 3.13, python3 that fits)
#   MLNT_VENV    where the environment lies (otherwise .venv in the repository); the package in it is then this repository's
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
venv=${MLNT_VENV:-$repository/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

find_python() {
  local candidates=(python3.11 python3.12 python3.13 python3) candidate
  if [[ -n ${MLNT_PYTHON:-} ]]; then candidates=("$MLNT_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    # A name on PATH may be a version manager's stand-in for a Python that is not there: it has to run.
    "$candidate" -c 'import ensurepip, sys, venv
if not (3, 11) <= sys.version_info < (3, 14): sys.exit(1)
print(sys.executable)' 2>/dev/null && return
  done
  echo "launch: no CPython 3.11 to 3.13 with venv and ensurepip (tried ${candidates[*]}):" \
       "install one, or set MLNT_PYTHON=/path/to/python3.11." >&2
  return 2
}

# prepare_environment [EXTRAS]: installs the package with its extras unless this very installation is there already.
prepare_environment() {
  local extras=${1:-} python wanted
  if [[ ! -x $venv/bin/pip ]]; then
    python=$(find_python)
    echo "launch: making an environment in $venv with $python"
    "$python" -m venv "$venv"
  fi
  # The path too, as the installation points into it.
  wanted=$({ echo "$repository"; cat "$repository/setup.py" "$repository/launch/constraints.txt"; } | sha256sum)
  if [[ $(cat "$venv/.mlnt_tf_$extras" 2>/dev/null) != "$wanted" ]]; then
    echo "launch: installing the pinned packages into $venv (some minutes, the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -c "$repository/launch/constraints.txt" -e "$repository${extras:+[$extras]}"
    rm -f "$venv"/.mlnt_tf_*  # of another repository's installation, which this one has taken the place of
    echo "$wanted" | tee "$venv/.mlnt_tf_" >"$venv/.mlnt_tf_$extras"  # with extras it is also complete without
  fi
  cd "$repository"
}
