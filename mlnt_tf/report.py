"""python -m mlnt_tf.report runs/a [runs/b …]: the table of a run, or mean and spread over seeds."""

import json
import pathlib
import shlex
import statistics
import sys

from mlnt_tf import cli
from mlnt_tf.config import WITHOUT_EFFECT, UserError, flags

HEADINGS = ("", "best validation", "last validation", "test at best", "test at last", "kept",
            "clean among kept", "kept of clean", "seconds")
ACCURACIES = ("best_validation", "last_validation", "test_at_best", "test_last")
FILTER = ("filter_precision", "filter_recall")


def table_rows(results):
    """Returns the rows of a run's table, one for each network of each stage.

    Values of the stage as a whole (its duration and the filter's counts) are in the row of its last
    network.

    Args:
      results: dict, the contents of results.json.

    Returns:
      list of (name, {column: fraction, or seconds}).
    """
    rows = []
    for stage in results["stages"]:
        shared = {key: stage[key] for key in ("kept", *FILTER, "seconds") if key in stage}
        if "kept" in shared:
            shared["kept"] = shared["kept"] / results["train_examples"]
        networks = list(stage["validation"])
        for network in networks:
            row = dict(stage[network])
            if network == networks[-1]:
                row.update(shared)
            rows.append((stage["name"] + row_suffix(network, "iteration" in stage), row))
    return rows


def row_suffix(network, is_iteration):
    """Returns the text that follows the stage's name in the row of a network.

    Outside the iterations, the stage's name alone is the student.
    """
    if is_iteration:
        return f", {network}"
    return {"student": "", "teacher": ", EMA"}.get(network, f", {network}")


def format_table(results):
    """Returns the table of one run, a str.

    Args:
      results: dict, the contents of results.json.
    """
    count = results["train_examples"]
    lines = [HEADINGS]
    for name, row in table_rows(results):
        selected = ""
        if row.get("kept") is not None:
            selected = f"{round(row['kept'] * count)} of {count}"
        lines.append((name, *(_percent(row.get(key)) for key in ACCURACIES), selected,
                      *(_percent(row.get(key)) for key in FILTER), _seconds([row])))
    noise = results["noise"]
    wrong = "an unknown fraction"
    if noise["realized_rate"] is not None:
        wrong = f"{_percent(noise['realized_rate'])} %"
    filtered = results["exported_filter"]
    correct = ""
    if filtered["filter_precision"] is not None:
        correct = f", {_percent(filtered['filter_precision'])} % of them correct"
    return (f"{results['dataset']}, {noise_name(noise)}: {wrong} of {count} training labels wrong; "
            f"seed {results['seed']}\n{describe_labels(results)}\n\n"
            f"{align_columns(without_empty_columns(lines))}\n\n"
            f"exported: {results['exported']} (its epoch chosen by validation), test accuracy "
            f"{100 * results['test_accuracy']:.1f} %; its filter would keep {filtered['kept']} of "
            f"{count} training labels{correct}")


def describe_labels(results):
    """Returns the line that says which labels accuracies were measured against."""
    kinds = results.get("labels")  # Absent from results of an earlier version.
    if kinds is None:
        return "accuracies in %"
    return (f"accuracies in %, of validation against {kinds['validation']}; of test against "
            f"{kinds['test']}")


def summarize(runs):
    """Returns a table of mean ± standard deviation over runs that differ in their seed only.

    Args:
      runs: list of dict, see `read_results`.

    Raises:
      UserError: the runs differ in more than their seed, or a seed is repeated.
    """
    _check_comparable(runs)
    lines = [HEADINGS]
    for rows_of_runs in zip(*map(table_rows, runs)):
        names, rows = zip(*rows_of_runs)
        means = [_mean_and_deviation([row.get(key) for row in rows])
                 for key in (*ACCURACIES, "kept", *FILTER)]
        lines.append((names[0], *means, _seconds(rows)))
    wrong = _mean_and_deviation([run["noise"]["realized_rate"] for run in runs])
    wrong = f"{wrong} %" if wrong else "an unknown fraction"
    seeds = ", ".join(str(run["seed"]) for run in runs)
    accuracy = _mean_and_deviation([run["test_accuracy"] for run in runs])
    return (f"{runs[0]['dataset']}, {noise_name(runs[0]['noise'])}: {wrong} of the training labels "
            f"wrong; mean ± standard deviation over seeds {seeds}\n{describe_labels(runs[0])}\n\n"
            f"{align_columns(without_empty_columns(lines))}\n\n"
            f"exported (best by validation): test accuracy {accuracy} %")


def _check_comparable(runs):
    """Raises UserError unless the runs differ in their seed, and only in it."""
    kinds = {(run["dataset"], run["noise"]["kind"], run["noise"]["rate"], run["method"],
              run["train_examples"], len(run["stages"])) for run in runs}
    if len(kinds) > 1:
        raise UserError("The runs differ in more than their seed: "
                        f"{' against '.join(map(str, kinds))}. Name runs with the same data set, "
                        "noise, method, size and number of stages.")
    settings = [run.get("flags", frozenset()) for run in runs]
    different = frozenset.union(*settings) - frozenset.intersection(*settings)
    if different:
        raise UserError(f"The runs differ in more than their seed: {', '.join(sorted(different))}. "
                        "Name runs with the same flags.")
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"The seeds {', '.join(map(str, seeds))} repeat. Name one run per seed.")


def noise_name(noise):
    """Returns the name of a run's noise, such as "symmetric noise".

    Args:
      noise: dict with the noise's "kind", the value of --noise.
    """
    return "labels as they are" if noise["kind"] == "none" else f"{noise['kind']} noise"


def describe_issues(results, directory):
    """Returns how many labels of a run are worth a look, where to look and what to type, as text.

    Args:
      results: dict, the contents of results.json.
      directory: pathlib.Path of the run.

    Returns:
      str, empty for a run of an earlier version, and if its labels could not be judged.
    """
    counts, noise = results.get("label_issues"), results.get("label_noise")
    if not counts:
        return ""
    low, high = noise["interval"]
    return (f"{counts['flagged']} of {counts['images']} labels are worth a look. "
            f"{_percent(noise['estimated_rate'])} % of the training labels look wrong. This counts "
            f"errors of the classifier too: {_percent(low)} to {_percent(high)} % are plausible.\n"
            f"{next_steps(directory)}")


def next_steps(directory):
    """Returns the commands that show and correct the labels of a directory, as lines of text.

    Args:
      directory: pathlib.Path of a run or of `check --label_issues`.
    """
    page, quoted = directory / "review.html", shlex.quote(str(directory))
    look = f"python -m mlnt_tf.review {quoted}"
    if page.exists():
        look = page.resolve().as_uri()
    table = shlex.quote(str(directory / "label_issues.csv"))
    return (f"  look:     {look}\n"
            f"  correct:  python -m mlnt_tf.relabel {quoted} --corrections=corrections.csv "
            "--output=labels.csv\n"
            f"  list:     {table}, most suspicious first")


def _percent(fraction):
    """Returns a fraction in %, or "" for None."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _mean_and_deviation(fractions):
    """Returns mean ± standard deviation in %, or "" if a value is None."""
    if any(fraction is None for fraction in fractions):
        return ""
    deviation = statistics.stdev(fractions) if len(fractions) > 1 else 0
    return f"{100 * statistics.mean(fractions):.1f} ± {100 * deviation:.1f}"


def _seconds(rows):
    """Returns the mean duration of equal rows of several runs in s, or "" without durations."""
    if "seconds" not in rows[0]:
        return ""
    return f"{statistics.mean(row['seconds'] for row in rows):.0f}"


def without_empty_columns(lines):
    """Returns lines of cells without the columns that are empty below their heading."""
    columns = [column for column in zip(*lines) if any(column[1:])]
    return list(zip(*columns))


def align_columns(lines):
    """Returns lines of cells as text, the first column aligned left and the others right.

    Args:
      lines: sequence of sequences of str, all of the same length.
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        text.append("  ".join(cells))
    return "\n".join(text)


def read_results(path):
    """Reads the results of a run.

    Args:
      path: str or pathlib.Path, the run's directory or its results.json.

    Returns:
      dict, the contents of results.json, and "flags": a frozenset of the flags that change a run's
      results, without --seed.

    Raises:
      UserError: the file cannot be read, or is not the complete results of a run.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "results.json"
    try:
        results = json.loads(path.read_text())
        flagfile = path.with_name("flags.txt")
        if flagfile.exists():
            results["flags"] = _read_flags(flagfile)
        table_rows(results)
        return results
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Name the directory of a "
                        "finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold the results of a run ({error!r}). Run the training "
                        "again.") from error


def _read_flags(flagfile):
    """Returns the lines of flags.txt that distinguish runs in more than their seed."""
    lines = [line for line in flagfile.read_text().splitlines() if line.startswith("--")]
    names = [line.partition("=")[0].removeprefix("--") for line in lines]
    return frozenset(line for line, name in zip(lines, names)
                     if name not in (*WITHOUT_EFFECT, "seed"))


def main(argv=None):
    """Prints the table. Returns the exit code: 0, or 2 after a mistake of the user."""
    return cli.run_command(report, argv)


def report(argv):
    """Prints the table of the runs that the command line names."""
    parser = flags.Parser(
        "report", "Prints the table of a finished run, or the mean and standard deviation over "
        "runs that differ only in their seed.",
        examples=("runs/digits", "runs/digits runs/digits_1 runs/digits_2"))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output directory of a run")
    runs = [read_results(path) for path in parser.parse_args(argv[1:]).runs]
    print(format_table(runs[0]) if len(runs) == 1 else summarize(runs))


if __name__ == "__main__":
    sys.exit(main())
