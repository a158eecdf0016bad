#!/usr/bin/env bash
# Makes the environment, runs the tests; arguments go on to pytest (paths count from the repository).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment test
exec "$venv/bin/python" -m pytest -q "${@:-tests}"
