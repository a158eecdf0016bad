#!/usr/bin/env bash
# Creates the environment, trains on the digits and prints a table of the results. All arguments
# are passed to mlnt_tf.train, for example --seed=1. Relative paths start at the repository.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment
exec "$venv/bin/python" -m mlnt_tf.train --flagfile=configs/digits.flags "$@"
