# Defines `prepare_environment`. The other scripts source this file, from any directory.
#   MLNT_PYTHON  the Python of the environment. Default: the first of python3.11, python3.12,
#                python3.13 and python3 that has a supported version.
#   MLNT_VENV    the directory of the environment. Default: .venv in the repository. The mlnt_tf
#                installed in it is this repository's.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
venv=${MLNT_VENV:-$repository/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

find_python() {
  local candidates=(python3.11 python3.12 python3.13 python3) candidate
  if [[ -n ${MLNT_PYTHON:-} ]]; then candidates=("$MLNT_PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    # Run it, because a name on PATH may be a version manager's placeholder for a missing Python.
    "$candidate" -c 'import ensurepip, sys, venv
if not (3, 11) <= sys.version_info < (3, 14): sys.exit(1)
print(sys.executable)' 2>/dev/null && return
  done
  echo "launch: CPython 3.11 to 3.13 with venv and ensurepip is not installed" \
       "(tried ${candidates[*]}). Install it, or set MLNT_PYTHON=/path/to/python3.11." >&2
  return 2
}

# prepare_environment [EXTRAS]: installs the package with its extras and enters the repository.
# A later call installs again only if setup.py, a pinned version or the repository's path changed.
prepare_environment() {
  local extras=${1:-} python wanted
  if [[ ! -x $venv/bin/pip ]]; then
    python=$(find_python)
    echo "launch: creating an environment in $venv with $python"
    "$python" -m venv "$venv"
  fi
  # The installation is editable, so it depends on the repository's path too.
  wanted=$({
    echo "$repository"
    cat "$repository/setup.py" "$repository/launch/constraints.txt"
  } | sha256sum)
  if [[ $(cat "$venv/.mlnt_tf_$extras" 2>/dev/null) != "$wanted" ]]; then
    echo "launch: installing the pinned packages into $venv (takes some minutes the first time)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -c "$repository/launch/constraints.txt" -e "$repository${extras:+[$extras]}"
    rm -f "$venv"/.mlnt_tf_*  # They describe the installation that was just replaced.
    # An installation with extras also serves a call without extras.
    echo "$wanted" | tee "$venv/.mlnt_tf_" >"$venv/.mlnt_tf_$extras"
  fi
  cd "$repository"
}
