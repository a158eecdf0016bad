#!/usr/bin/env bash
# Creates the environment and runs the tests. All arguments are passed to pytest. Relative paths
# start at the repository.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment test
exec "$venv/bin/python" -m pytest -q "${@:-tests}"
