#!/usr/bin/env bash
# Makes an environment and runs the tests; arguments go to pytest. Needs what quickstart.sh needs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment test
exec python -m pytest -q "${@:-tests}"
