"""Summary of a grid's runs: table.md, table.csv, figures and one HTML page."""

import dataclasses
import itertools
import math
import pathlib
import statistics

from mlnt_tf import report
from mlnt_tf.compare import page, plots
from mlnt_tf.files import atomic

COLUMNS = ("method", "noise", "rate", "best epoch", "last epoch", "EMA, best", "EMA, last", "seeds",
           "seconds", "peak MB")
# Entries of results.json that the summary reads.
KEYS = ("best_accuracy", "last_accuracy", "stages", "curve", "seconds", "peak_memory_mb", "dataset",
        "versions")
ACCURACIES = ("best", "last", "ema_best", "ema_last")
CSV_COLUMNS = (
    "method", "noise", "noise_rate",
    *(f"{name}_{kind}" for name in ACCURACIES for kind in ("accuracy", "standard_error")),
    "seeds_finished", "seeds", "seconds", "peak_memory_mb", "failures")
EXPLANATION = (
    "Test accuracy in %, mean ± standard error over seeds. The best epoch is that of the exported "
    "network with the highest validation accuracy, the last epoch that of the last stage. EMA is "
    "the average of the last stage's weights, which every method computes and some export. Seconds "
    "are the duration of a run's training stages, averaged over seeds. Peak MB is the highest "
    "resident memory of any run. Where the noise is injected, Forward and CNN-CRF use the true "
    "transition matrix by default, and CNN-CRF some true labels.")


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """The coordinates of a run in the grid.

    Attributes:
      method: str, the value of --method.
      noise: str, the value of --noise.
      rate: float, the noise rate, or None if the noise has none.
      seed: int.
    """

    method: str
    noise: str
    rate: float | None
    seed: int

    @property
    def name(self):
        """str, the name of the run in tables."""
        return f"{self.method}, {noise_name(self.noise, self.rate)}, seed {self.seed}"

    @property
    def path(self):
        """pathlib.Path of the run's directory, relative to that of the grid."""
        directory = directory_name(self.noise, self.rate)
        # A colon in the name of a method would end the path in `docker run -v PATH:/models`.
        return pathlib.Path(self.method.replace(":", "_"), directory, f"seed_{self.seed}")


@dataclasses.dataclass(frozen=True)
class Outcome(GridPoint):
    """The outcome of a run.

    Attributes:
      results: dict, the contents of results.json, or None if the run has not finished.
      failure: str, the reason why there are no results.
    """

    results: dict | None = None
    failure: str = ""

    def accuracy(self, name):
        """Returns one of `ACCURACIES` of a finished run, a fraction."""
        if name == "best":
            return self.results["best_accuracy"]
        if name == "last":
            return self.results["last_accuracy"]
        teacher = self.results["stages"][-1].get("teacher", {})  # A user's method may have none.
        return teacher.get({"ema_best": "test_at_best", "ema_last": "test_last"}[name])


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one method under one noise, which differ in their seed.

    Attributes:
      method, noise, rate: see `GridPoint`.
      finished: list of `Outcome` with results.
      failed: list of `Outcome` without results.
    """

    method: str
    noise: str
    rate: float | None
    finished: list
    failed: list

    def accuracy(self, name):
        """Returns mean and standard error of one of `ACCURACIES`; see `mean_and_error`."""
        values = [run.accuracy(name) for run in self.finished]
        return mean_and_error([value for value in values if value is not None])

    @property
    def seconds(self):
        """float, the mean duration in s. None without a finished run."""
        if not self.finished:
            return None
        return statistics.mean(run.results["seconds"] for run in self.finished)

    @property
    def peak_memory(self):
        """float, the highest resident memory in MiB. None without a finished run."""
        if not self.finished:
            return None
        return max(run.results["peak_memory_mb"] for run in self.finished)


def mean_and_error(values):
    """Returns (mean, standard error), or None if there are no values.

    The standard error is the sample standard deviation over √n. It is None for a single value.

    Args:
      values: list of float.
    """
    if not values:
        return None
    if len(values) == 1:
        return values[0], None
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def table_rows(outcomes):
    """Returns the table as a list of `Row`.

    Noises and rates are in the order of the outcomes. Each lists all methods.

    Args:
      outcomes: list of `Outcome`.
    """
    methods = list(dict.fromkeys(run.method for run in outcomes))
    conditions = dict.fromkeys((run.noise, run.rate) for run in outcomes)
    rows = []
    for (noise, rate), method in itertools.product(conditions, methods):
        runs = [run for run in outcomes
                if (run.method, run.noise, run.rate) == (method, noise, rate)]
        rows.append(Row(method, noise, rate,
                        finished=[run for run in runs if run.results],
                        failed=[run for run in runs if not run.results]))
    return rows


def cells(row):
    """Returns the cells of a `Row` under `COLUMNS`, a tuple of str."""
    finished = len(row.finished)
    total = finished + len(row.failed)
    seeds = str(finished) if finished == total else f"{finished} of {total}"
    return (row.method, row.noise, "" if row.rate is None else str(row.rate),
            *(_percent(row.accuracy(name)) for name in ACCURACIES), seeds,
            _rounded(row.seconds), _rounded(row.peak_memory))


def csv_cells(row):
    """Returns the cells of a `Row` under `CSV_COLUMNS`, with numbers in full precision."""
    accuracies = []
    for name in ACCURACIES:
        accuracies += row.accuracy(name) or (None, None)
    failures = "; ".join(f"seed {run.seed}: {run.failure}" for run in row.failed)
    return (row.method, row.noise, row.rate, *accuracies, len(row.finished),
            len(row.finished) + len(row.failed), row.seconds, row.peak_memory, failures)


def noise_name(noise, rate):
    """Returns the name of a noise in tables and titles, such as "symmetric noise 0.5"."""
    name = report.noise_name({"kind": noise})
    return name if rate is None else f"{name} {rate}"


def directory_name(noise, rate):
    """Returns the directory name of a noise: symmetric_0.5, or matrix_pairs for matrix:a/pairs.csv.

    Args:
      noise: str, the value of --noise.
      rate: float, or None if the noise has none.
    """
    kind, _, file = noise.partition(":")
    parts = [kind]
    if file:
        parts.append(pathlib.Path(file).stem)
    if rate is not None:
        parts.append(str(rate))
    return "_".join(parts)


def write(output_dir, outcomes, *, command, machines):
    """Writes table.csv, table.md, the figures and index.html.

    Args:
      output_dir: pathlib.Path, an existing directory.
      outcomes: list of `Outcome`, one for each run of the grid.
      command: str, the command line of the grid.
      machines: list of str, a description of each machine that trained.
    """
    rows = table_rows(outcomes)
    atomic.write_csv(output_dir / "table.csv", CSV_COLUMNS, map(csv_cells, rows))
    content = _content(rows, command)
    atomic.write_text(output_dir / "table.md", page.to_markdown(content))
    text = page.to_html(content, figures=draw(output_dir, rows),
                        notes=[*machines, _versions(rows)])
    atomic.write_text(output_dir / "index.html", text)


def draw(output_dir, rows):
    """Draws the figures for which there are finished runs.

    Args:
      output_dir: pathlib.Path.
      rows: list of `Row`.

    Returns:
      list of (path, caption).
    """
    figures = []
    for (noise, rate), group in _group(rows, lambda row: (row.noise, row.rate)):
        curves = {row.method: [run.results["curve"]["validation"] for run in row.finished]
                  for row in group}
        if not any(curves.values()):
            continue
        path = output_dir / f"epochs_{directory_name(noise, rate)}.png"
        title = noise_name(noise, rate)
        plots.over_epochs(path, curves, title=title)
        figures.append((path, "Validation accuracy over the epochs of the exported stage, "
                        f"{title}: mean over seeds ± one standard deviation."))
    for noise, group in _group(rows, lambda row: row.noise):
        points = {row.method: [] for row in group}
        for row in sorted(group, key=lambda row: row.rate or 0):
            if row.finished:
                points[row.method].append((row.rate, row.accuracy("best"), row.accuracy("last")))
        if all(len(points_of_method) < 2 for points_of_method in points.values()):
            continue
        path = output_dir / f"rates_{directory_name(noise, None)}.png"
        title = noise_name(noise, None)
        plots.over_rates(path, points, title=title)
        figures.append((path, f"Test accuracy over the noise rate, {title}: mean ± standard "
                        "error over seeds."))
    return figures


def _group(rows, key):
    """Returns [(key, list of its rows), …] in the order of the rows."""
    return [(value, [row for row in rows if key(row) == value])
            for value in dict.fromkeys(map(key, rows))]


def _percent(accuracy):
    """Returns (mean, standard error or None) in %, or "none" for None."""
    if accuracy is None:
        return "none"
    mean, error = accuracy
    if error is None:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} ± {100 * error:.1f}"


def _rounded(number):
    """Returns a number as text without decimals, or "" for None."""
    return "" if number is None else f"{number:.0f}"


def _content(rows, command):
    """Returns the `page.Content` of the table."""
    results = [run.results for row in rows for run in row.finished]
    datasets = dict.fromkeys(each["dataset"] for each in results)
    labels = dict.fromkeys(f"Validation measures against {each['labels']['validation']}, test "
                           f"against {each['labels']['test']}."
                           for each in results if "labels" in each)
    return page.Content(
        heading=f"Methods compared: {', '.join(datasets) or 'no finished run'}",
        explanation=" ".join([EXPLANATION, *labels]),
        columns=COLUMNS,
        lines=[cells(row) for row in rows],
        marked={index for index, row in enumerate(rows) if row.failed},
        failures=[f"{run.name}: {run.failure}" for row in rows for run in row.failed],
        command=command)


def _versions(rows):
    """Returns the package versions of the finished runs: "keras 3.15.1, python 3.11.9"."""
    versions = {}
    for row in rows:
        for run in row.finished:
            for package, version in run.results["versions"].items():
                versions.setdefault(package, set()).add(version or "absent")
    return ", ".join(f"{package} {' and '.join(sorted(values))}"
                     for package, values in sorted(versions.items()))
