"""python -m mlnt_tf.report runs/a runs/b …: the table of one run, or mean ± standard deviation of several.

Reads results.json files and nothing else.
"""

import json
import pathlib
import statistics
import sys

from mlnt_tf.config import UserError

COLUMNS = ("best val", "test at best", "last val", "test at last", "kept", "precision", "recall", "seconds")
MEASURES = ("best_validation", "test_at_best", "last_validation", "test_last")
PRECISION_OF = {"seconds": 0, "kept": 1}  # decimals; everything else is an accuracy in percent, with two
NOTHING = "-"


def format_table(results):
    """The table of one run, as text.

    Args:
      results: the contents of its results.json; accuracies and shares as fractions.

    Returns:
      rows for cross entropy and for the student and the teacher of every iteration, in percent: accuracy at the best
      and the last epoch, what the filter kept, the clean share of the kept (precision), the kept share of the clean
      (recall); at the end the exported network.
    """
    total = results["train_examples"]
    table = []
    for label, values in _rows(results):
        cells = [NOTHING if value is None else f"{value:.{PRECISION_OF.get(column, 2)}f}"
                 for column, value in zip(COLUMNS, values)]
        if values[4] is not None:
            cells[4] = f"{round(values[4] * total / 100)} of {total} ({values[4]:.1f} %)"
        table.append((label, *cells))
    return "\n".join([
        f"{_title(results)}, seed {results['seed']}: {total} training examples, "
        f"{100 * results['noise']['realized_rate']:.1f} % of their labels wrong; accuracies in %",
        *_align([("", *COLUMNS), *table]),
        f"exported: {results['exported']}, test accuracy {100 * results['test_accuracy']:.2f} %"])


def summarize(runs):
    """The rows of `format_table` as mean ± sample standard deviation over runs.

    Args:
      runs: list of the contents of results.json files, alike but for the seed.

    Raises:
      UserError: the runs differ in method, data, noise or size.
    """
    described = [_title(run) + f", {run['train_examples']} training examples, {len(run['iterations'])} iterations"
                 for run in runs]
    for other in described:
        if other != described[0]:
            raise UserError(f"these runs cannot be averaged, '{described[0]}' and '{other}': name runs that differ in "
                            "--seed alone.")
    table = []
    for rows in zip(*map(_rows, runs)):
        columns = zip(*(values for _, values in rows))
        table.append((rows[0][0], *(_mean(values, PRECISION_OF.get(column, 2))
                                    for column, values in zip(COLUMNS, columns))))
    exported = ", ".join(f"{run['exported']} (seed {run['seed']})" for run in runs)
    return "\n".join([
        f"{described[0]}: mean ± standard deviation of {len(runs)} runs, in %; seeds "
        + ", ".join(str(run["seed"]) for run in runs),
        *_align([("", *COLUMNS), *table]),
        f"exported: {exported}; test accuracy {_mean([100 * run['test_accuracy'] for run in runs], 2)} %"])


def load_results(path):
    """The contents of a results.json, given itself or its run's directory.

    Raises:
      UserError: it is missing or not one of mlnt_tf.
    """
    path = pathlib.Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        format_table(results)  # has everything a table needs
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name directories of finished runs.")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path} is not a results.json of mlnt_tf: name directories of finished runs.")
    return results


def main(argv=None):
    """Prints; the exit code: 0, or 2 for a mistake of the user's."""
    paths = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"}.intersection(paths):
        print(__doc__.strip())
        return 0
    try:
        if not paths:
            raise UserError("no run named: python -m mlnt_tf.report runs/a runs/b …")
        runs = [load_results(path) for path in paths]
        print(format_table(runs[0]) if len(runs) == 1 else summarize(runs))
    except UserError as error:
        print(f"mlnt_tf.report: {error}", file=sys.stderr)
        return 2
    return 0


def _title(results):
    noise = results["noise"]
    rate = "" if noise["kind"] == "none" or noise["kind"].startswith("matrix:") else f" {noise['rate']}"
    return f"{results['method']} on {results['dataset']}, noise {noise['kind']}{rate}"


def _rows(results):
    """[(label, one value a column, None where it has none)]; percent and seconds."""
    def measures(network):
        return [100 * network[name] for name in MEASURES]

    rows = [("cross entropy", [*measures(results["cross_entropy"]), *[None] * 4]),
            ("cross entropy EMA", [*measures(results["cross_entropy_ema"]), *[None] * 4])]
    for iteration in results["iterations"]:
        shares = (iteration["kept"] / results["train_examples"], iteration["filter_precision"],
                  iteration["filter_recall"])
        shares = [None if share is None else 100 * share for share in shares]
        label = f"iteration {iteration['iteration']}"
        rows.append((f"{label} student", [*measures(iteration["student"]), *shares, iteration["seconds"]]))
        rows.append((f"{label} teacher", [*measures(iteration["teacher"]), *[None] * 4]))
    return rows


def _mean(values, decimals):
    """mean ± sample standard deviation of the values that are there."""
    values = [value for value in values if value is not None]
    if not values:
        return NOTHING
    spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{decimals}f}{spread}"


def _align(table):
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
            for row in table]


if __name__ == "__main__":
    sys.exit(main())
