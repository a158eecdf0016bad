#!/usr/bin/env bash
# Starts one worker of a run on several hosts, or several workers on this host. All arguments are
# passed to mlnt_tf.train.
#
#   On each host, with the same WORKERS and its own INDEX:
#     WORKERS=host1:12345,host2:12345 INDEX=0 bash launch/multi_worker.sh --flagfile=…
#   Two workers on this host:
#     PROCESSES=2 bash launch/multi_worker.sh --flagfile=…
#
# Requirements: hosts that reach each other at these ports, the same code and data on each of them,
# and a shared --output_dir. The worker with INDEX=0, the chief, writes to it. When one worker
# fails, the others stop too. The same command on every host resumes from the last checkpoint.
#   PORT  the first port that PROCESSES uses. Default: 12345.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# task INDEX HOST:PORT,…: prints TF_CONFIG for one worker.
task() {
  local workers='"'${2//,/'","'}'"'
  echo "{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $1}}"
}

if [[ -n ${WORKERS:-} ]]; then
  if [[ ! ${INDEX:-} =~ ^[0-9]+$ ]]; then
    echo "launch: WORKERS=$WORKERS needs INDEX, the position of this host in the list." \
         "Set INDEX=0 on the first host, INDEX=1 on the second, and so on." >&2
    exit 2
  fi
  prepare_environment "${MLNT_EXTRAS:-}"
  TF_CONFIG=$(task "$INDEX" "$WORKERS") exec "$venv/bin/python" -m mlnt_tf.train \
    --strategy=multi_worker "$@"
fi

if [[ ! ${PROCESSES:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "launch: the workers are not given. Set WORKERS=host:port,… and INDEX, or PROCESSES=2 for" \
       "two workers on this host." >&2
  exit 2
fi
prepare_environment "${MLNT_EXTRAS:-}"
workers=$(
  for ((i = 0; i < PROCESSES; i++)); do printf ',127.0.0.1:%d' $((${PORT:-12345} + i)); done)
children=()
stop() { kill -TERM "${children[@]}" 2>/dev/null || true; }
trap stop TERM INT
for ((i = 0; i < PROCESSES; i++)); do
  TF_CONFIG=$(task "$i" "${workers#,}") "$venv/bin/python" -m mlnt_tf.train \
    --strategy=multi_worker "$@" &
  children+=($!)
done
code=0
for child in "${children[@]}"; do
  status=0
  wait "$child" || status=$?
  # A signal ends `wait`, but the worker may still be saving its checkpoint.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  if [[ $status != 0 ]]; then code=$status; fi
done
exit "$code"
