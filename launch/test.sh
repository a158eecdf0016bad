#!/usr/bin/env bash
# Creates the environment and runs the tests, two at a time.
#
#   bash launch/test.sh            all tests
#   bash launch/test.sh --fast     without the slow tests, such as complete trainings: minutes
#   bash launch/test.sh -k filter  other arguments go to pytest; paths start at the repository
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment test
paths=(tests)
for argument in "$@"; do
  if [[ $argument == tests* ]]; then paths=(); fi
done
exec "$venv/bin/python" -m pytest -q --numprocesses=2 --dist=loadfile "${paths[@]}" "$@"
