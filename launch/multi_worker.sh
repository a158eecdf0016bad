#!/usr/bin/env bash
# One process of a training by several hosts, or all the processes of one on this host. Flags go on to mlnt_tf.train.
#
#   on each host, with the same list:  WORKERS=host1:12345,host2:12345 INDEX=0 bash launch/multi_worker.sh --flagfile=…
#   two processes on this host:        PROCESSES=2 bash launch/multi_worker.sh --flagfile=…
#
# Needs: hosts that reach each other at these ports, the same code and data on each, and an --output_dir that all of them
# see (the first, INDEX=0, writes it). When one process ends before its time the others end too; the same command on
# every host goes on from the last checkpoint.
#   PORT  the first of the ports that PROCESSES takes (otherwise 12345)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# task INDEX HOST:PORT,…: TF_CONFIG of one worker.
task() {
  local workers='"'${2//,/'","'}'"'
  echo "{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $1}}"
}

if [[ -n ${WORKERS:-} ]]; then
  if [[ ! ${INDEX:-} =~ ^[0-9]+$ ]]; then
    echo "launch: WORKERS=$WORKERS needs INDEX=0, 1, …: the place of this host in the list." >&2
    exit 2
  fi
  prepare_environment "${MLNT_EXTRAS:-}"
  TF_CONFIG=$(task "$INDEX" "$WORKERS") exec "$venv/bin/python" -m mlnt_tf.train --strategy=multi_worker "$@"
fi

if [[ ! ${PROCESSES:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "launch: set WORKERS=host:port,… and INDEX, or PROCESSES=2 for this host alone." >&2
  exit 2
fi
prepare_environment "${MLNT_EXTRAS:-}"
workers=$(for ((i = 0; i < PROCESSES; i++)); do printf ',127.0.0.1:%d' $((${PORT:-12345} + i)); done)
children=()
stop() { kill -TERM "${children[@]}" 2>/dev/null || true; }
trap stop TERM INT
for ((i = 0; i < PROCESSES; i++)); do
  TF_CONFIG=$(task "$i" "${workers#,}") "$venv/bin/python" -m mlnt_tf.train --strategy=multi_worker "$@" &
  children+=($!)
done
code=0
for child in "${children[@]}"; do wait "$child" || code=$?; done
exit "$code"
