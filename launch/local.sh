#!/usr/bin/env bash
# Trains on all GPUs of this host: bash launch/local.sh --flagfile=configs/cifar10_symmetric.flags …
#
# Requirements: an NVIDIA driver with which `nvidia-smi` works. Without a GPU, it trains on the CPU.
# --num_devices=2 uses two of the GPUs. Relative paths start at the repository.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
extras=
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then extras=gpu; fi
prepare_environment "$extras"
exec "$venv/bin/python" -m mlnt_tf.train --strategy=auto "$@"
