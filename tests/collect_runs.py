"""Collects finished runs into configs/results/NAME/table.csv. Not a test.

    python tests/collect_runs.py NAME runs/a runs/b …

The table has one row per network of each stage, and one per run for the exported network. Next to
it, command.txt holds the command that made the runs.
"""

import json
import pathlib
import subprocess
import sys

from mlnt_tf.files import atomic
from mlnt_tf.hardware import host

RESULTS = pathlib.Path(__file__).parents[1] / "configs/results"
HEADER = ("run", "seed", "row", "best_validation", "test_at_best", "test_last", "seconds",
          "flags", "processor", "cores", "commit")


def rows_of(directory):
    """Returns the rows of a run: dicts of cells under HEADER."""
    results = json.loads((directory / "results.json").read_text())
    comment = (directory / "flags.txt").read_text().partition("\n")[0].partition(": ")[2]
    machine = host.describe_machine()
    shared = {"run": directory.name, "seed": results["seed"], "flags": comment,
              "processor": machine["processor"], "cores": machine["cores"], "commit": commit()}
    rows = []
    for stage in results["stages"]:
        for network in stage["validation"]:
            measured = {key: f"{stage[network][key]:.4f}"
                        for key in ("best_validation", "test_at_best", "test_last")}
            rows.append({**shared, **measured, "row": f"{stage['name']}, {network}",
                         "seconds": f"{stage['seconds']:.1f}"})
    exported = {key: f"{results['best'][key]:.4f}" for key in ("best_validation", "test_at_best")}
    return [*rows, {**shared, **exported, "row": f"exported: {results['exported']}",
                    "test_last": "", "seconds": f"{results['seconds']:.1f}"}]


def commit():
    """Returns the short hash of the checked-out commit."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent,
                          capture_output=True, text=True, check=True).stdout.strip()


def main():
    name, *directories = sys.argv[1:]
    rows = [row for directory in directories for row in rows_of(pathlib.Path(directory))]
    (RESULTS / name).mkdir(parents=True, exist_ok=True)
    atomic.write_csv(RESULTS / name / "table.csv", HEADER,
                     ([row[column] for column in HEADER] for row in rows))


if __name__ == "__main__":
    main()
