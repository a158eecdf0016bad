#!/usr/bin/env bash
# Makes the environment, trains on the digits, ends with a table. Further flags go on: --seed=1, --output_dir=…
# (paths count from the repository).
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment
exec "$venv/bin/python" -m mlnt_tf.train --flagfile=configs/digits.flags "$@"
