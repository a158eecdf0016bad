"""Collects finished runs into configs/results/NAME/table.csv. Not a test.

    python tests/collect_runs.py NAME RUN … [--commit=HASH]

The commit is that of the code that trained, by default the checked-out one. The table has one row
per network of each stage, and one per run for the exported network. Next to it, command.txt holds
the command that made the runs.
"""

import argparse
import json
import pathlib
import subprocess

from mlnt_tf.config import flags
from mlnt_tf.files import atomic
from mlnt_tf.hardware import host

RESULTS = pathlib.Path(__file__).parents[1] / "configs/results"
HEADER = ("run", "seed", "row", "best_validation", "test_at_best", "test_last", "seconds",
          "flags", "processor", "cores", "commit")


def rows_of(directory, commit):
    """Returns the rows of a run: dicts of cells under HEADER."""
    results = json.loads((directory / "results.json").read_text())
    machine = host.describe_machine()
    shared = {"run": directory.name, "seed": results["seed"], "flags": explicit_flags(directory),
              "processor": machine["processor"], "cores": machine["cores"], "commit": commit}
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


def explicit_flags(directory):
    """Returns the flags of a run's command line that do not name paths: "name=value name=value"."""
    text = (directory / "flags.txt").read_text()
    values = dict(line.removeprefix("--").split("=", 1) for line in text.splitlines()
                  if line.startswith("--"))
    names = flags.commented_flags(text, flags.EXPLICIT_COMMENT)
    return " ".join(f"{name}={values[name]}" for name in names if not name.endswith("_dir"))


def checked_out_commit():
    """Returns the short hash of the checked-out commit."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent,
                          capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--commit", default=checked_out_commit())
    options = parser.parse_args()
    rows = [row for directory in options.runs for row in rows_of(directory, options.commit)]
    (RESULTS / options.name).mkdir(parents=True, exist_ok=True)
    atomic.write_csv(RESULTS / options.name / "table.csv", HEADER,
                     ([row[column] for column in HEADER] for row in rows))


if __name__ == "__main__":
    main()
