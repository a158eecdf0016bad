"""python -m mlnt_tf.report runs/a [runs/b ...]: the table of a run, or mean and spread over several."""

import json
import os
import pathlib
import platform
import statistics
import sys

from mlnt_tf.config import WITHOUT_EFFECT, UserError

COLUMNS = ("", "best validation", "last validation", "test at best", "test at last", "kept", "clean among kept",
           "kept of clean", "seconds")
ACCURACIES = ("best_validation", "last_validation", "test_at_best", "test_last")


def table_rows(results):
    """Returns [(name, {column: fraction or number})], a row for each network of each stage.

    What belongs to the stage as a whole (its time, the filter's counts) is in the row of its last network.
    """
    rows = []
    for stage in results["stages"]:
        extra = {key: stage[key] for key in ("kept", "filter_precision", "filter_recall", "seconds") if key in stage}
        if "kept" in extra:
            extra["kept"] = extra["kept"] / results["train_examples"]
        networks = list(stage["validation"])
        for network in networks:
            row = {**stage[network], **extra} if network == networks[-1] else stage[network]
            rows.append((stage["name"] + row_suffix(network, "iteration" in stage), row))
    return rows


def row_suffix(network, is_iteration):
    """Returns what follows the stage's name in the table; outside the iterations the student is the stage itself."""
    if is_iteration:
        return f", {network}"
    return {"student": "", "teacher": ", EMA"}.get(network, f", {network}")


def format_table(results):
    """The table of one run."""
    lines = [COLUMNS]
    for name, row in table_rows(results):
        kept = row.get("kept")
        lines.append((name, *(_percent(row.get(key)) for key in ACCURACIES),
                      "" if kept is None else f"{round(kept * results['train_examples'])} of {results['train_examples']}",
                      _percent(row.get("filter_precision")), _percent(row.get("filter_recall")),
                      f"{row['seconds']:.0f}" if "seconds" in row else ""))
    noise, filtered = results["noise"], results["exported_filter"]
    wrong = "an unknown share" if noise["realized_rate"] is None else f"{_percent(noise['realized_rate'])} %"
    return (f"{results['dataset']}, {noise_name(noise)}: {wrong} of "
            f"{results['train_examples']} training labels wrong; seed {results['seed']}; accuracies in %\n\n"
            f"{align_columns(lines)}\n\nexported: {results['exported']} (its epoch chosen by validation), test accuracy "
            f"{100 * results['test_accuracy']:.1f} %; it would keep {filtered['kept']} of {results['train_examples']} "
            "training labels" + ("" if filtered["filter_precision"] is None
                                  else f", {_percent(filtered['filter_precision'])} % of them right"))


def summarize(runs):
    """The same rows as mean +- standard deviation over runs that differ in their seed.

    Raises:
      UserError: the runs differ in more.
    """
    kinds = {(run["dataset"], run["noise"]["kind"], run["noise"]["rate"], run["method"], run["train_examples"],
              len(run["stages"])) for run in runs}
    if len(kinds) > 1:
        raise UserError("the runs differ in more than their seed: " + " against ".join(str(kind) for kind in kinds)
                        + "; name runs of one data set, noise, method, size and number of stages.")
    settings = [run.get("flags", frozenset()) for run in runs]
    if len(set(settings)) > 1:
        raise UserError("the runs differ in more than their seed: "
                        + ", ".join(sorted(frozenset.union(*settings) - frozenset.intersection(*settings)))
                        + "; name runs of the same flags.")
    if len({run["seed"] for run in runs}) < len(runs):
        raise UserError(f"the seeds {', '.join(str(run['seed']) for run in runs)} repeat: name each run once.")
    lines = [COLUMNS]
    for rows in zip(*(table_rows(run) for run in runs)):
        column = {key: [row.get(key) for _, row in rows] for key in
                  (*ACCURACIES, "kept", "filter_precision", "filter_recall")}
        lines.append((rows[0][0], *(_mean(values) for values in column.values()),
                      f"{statistics.mean(row['seconds'] for _, row in rows):.0f}" if "seconds" in rows[0][1] else ""))
    seeds = ", ".join(str(run["seed"]) for run in runs)
    wrong = _mean([run["noise"]["realized_rate"] for run in runs])
    return (f"{runs[0]['dataset']}, {noise_name(runs[0]['noise'])}: "
            f"{f'{wrong} %' if wrong else 'an unknown share'} of the training labels wrong; mean ± standard "
            f"deviation over seeds {seeds}, in %\n\n{align_columns(lines)}\n\nexported (best by validation): test accuracy "
            f"{_mean([run['test_accuracy'] for run in runs])} %")


def noise_name(noise):
    return "labels as they are" if noise["kind"] == "none" else f"{noise['kind']} noise"


def _percent(fraction):
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _mean(fractions):
    if any(fraction is None for fraction in fractions):
        return ""
    return f"{100 * statistics.mean(fractions):.1f} ± {100 * statistics.stdev(fractions) if fractions[1:] else 0:.1f}"


def align_columns(lines):
    """Lines of cells as columns of text."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) if not index else cell.rjust(width)
                               for index, (cell, width) in enumerate(zip(line, widths))) for line in lines)


def read_results(path):
    """The results of a run, from its directory or its results.json.

    Raises:
      UserError: not there, or not whole.
    """
    path = pathlib.Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text())
        flagfile = path.with_name("flags.txt")
        if flagfile.exists():
            lines = [line for line in flagfile.read_text().splitlines() if line.startswith("--")]
            results["flags"] = frozenset(line for line in lines
                                         if line.partition("=")[0].removeprefix("--") not in (*WITHOUT_EFFECT, "seed"))
        table_rows(results)
        return results
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the directory of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the results of a run ({error!r}): run the training again.") from error


def describe_machine():
    """{"processor", "cores", "system"} of this one."""
    names = [line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if pathlib.Path("/proc/cpuinfo").exists() else [platform.processor()]
    return {"processor": names[0] if names else platform.machine(), "cores": os.cpu_count(), "system": platform.platform()}


def main(argv=None):
    paths = (sys.argv if argv is None else argv)[1:]
    try:
        if not paths:
            raise UserError("name one run or more: python -m mlnt_tf.report runs/digits")
        runs = [read_results(path) for path in paths]
        print(format_table(runs[0]) if len(runs) == 1 else summarize(runs))
    except UserError as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
