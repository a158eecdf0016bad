#!/usr/bin/env bash
# Makes an environment and trains on real handwritten digits with 45 % wrong labels; ends with a table and a SavedModel.
# Needs CPython 3.11 to 3.13 and a package index; no GPU, no data. Flags are handed on: quickstart.sh --seed=1 ...
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment
exec python -m mlnt_tf.train --flagfile=configs/digits.flags "$@"
