#!/usr/bin/env bash
# Makes the environment, runs the tests; arguments go on to pytest (paths count from the repository).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment test
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
exec "$venv/bin/python" -m pytest "$@"
