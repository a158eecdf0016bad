"""Runs of a grid → table.md, table.csv, figures and one HTML page; reads nothing but what it is given."""

import base64
import dataclasses
import html
import itertools
import math
import pathlib
import statistics

from mlnt_tf import report
from mlnt_tf.compare import plots
from mlnt_tf.files import atomic

COLUMNS = ("method", "noise", "rate", "best epoch", "last epoch", "EMA, best", "EMA, last", "seeds", "seconds", "peak MB")
KEYS = ("best_accuracy", "last_accuracy", "stages", "curve", "seconds", "peak_memory_mb", "dataset", "versions")  # of a run
ACCURACIES = {  # as (results of a run) -> fraction, under the names that the CSV's columns begin with
    "best": lambda results: results["best_accuracy"], "last": lambda results: results["last_accuracy"],
    "ema_best": lambda results: results["stages"][-1]["teacher"]["test_at_best"],
    "ema_last": lambda results: results["stages"][-1]["teacher"]["test_last"]}
CSV_COLUMNS = ("method", "noise", "noise_rate", *(f"{name}_{what}" for name in ACCURACIES for what in
                                                  ("accuracy", "standard_error")),
               "seeds_finished", "seeds", "seconds", "peak_memory_mb", "failures")
EXPLANATION = ("Test accuracy in %, mean ± standard error over seeds, of the exported network at the epoch of its best "
               "validation and of the last stage at its last epoch; EMA: of the average of the last stage's weights, which "
               "every method has beside it and some export. Seconds: of a run's training stages, mean over seeds; peak MB: "
               "the highest resident memory of any of them. Forward and CNN-CRF are given the true transition matrix where "
               "the noise is drawn here, unless told otherwise, and CNN-CRF some true labels.")
STYLE = ("body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
         "table{border-collapse:collapse}th,td{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}"
         "th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}.failed{color:#a00}"
         "pre{background:#f5f5f5;padding:.75rem;white-space:pre-wrap}img{max-width:100%;margin:1rem 0}")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run stands in the grid."""

    method: str
    noise: str
    rate: float | None  # None where the noise has none
    seed: int

    @property
    def name(self):
        return f"{self.method}, {noise_name(self.noise, self.rate)}, seed {self.seed}"

    @property
    def path(self):
        """Of its directory, below that of the grid."""
        return pathlib.Path(self.method, directory_name(self.noise, self.rate), f"seed_{self.seed}")


@dataclasses.dataclass(frozen=True)
class Outcome(Place):
    """What became of a run: its results, or why there are none."""

    results: dict | None = None  # contents of results.json
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of a method, noise and rate: accuracies are (mean, standard error or None) in fractions."""

    method: str
    noise: str
    rate: float | None
    finished: list
    failed: list

    def accuracy(self, name):
        """Mean and standard error of one of ACCURACIES; None without a finished run."""
        return mean_and_error([ACCURACIES[name](run.results) for run in self.finished])

    @property
    def seconds(self):
        return statistics.mean(run.results["seconds"] for run in self.finished) if self.finished else None

    @property
    def peak_memory(self):
        return max(run.results["peak_memory_mb"] for run in self.finished) if self.finished else None


def mean_and_error(values):
    """(mean, stdev / √n with n - 1 in stdev); of one value no error is known (None), of none nothing is (None)."""
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if values[1:] else None


def table_rows(outcomes):
    """The table's rows: noises and rates in the order they come in, within them the methods."""
    methods = list(dict.fromkeys(run.method for run in outcomes))
    conditions = dict.fromkeys((run.noise, run.rate) for run in outcomes)
    rows = []
    for (noise, rate), method in itertools.product(conditions, methods):
        runs = [run for run in outcomes if (run.method, run.noise, run.rate) == (method, noise, rate)]
        rows.append(Row(method, noise, rate, finished=[run for run in runs if run.results],
                        failed=[run for run in runs if not run.results]))
    return rows


def cells(row):
    """A row as people read it, under COLUMNS."""
    finished, asked = len(row.finished), len(row.finished) + len(row.failed)
    return (row.method, row.noise, "" if row.rate is None else str(row.rate),
            *(_percent(row.accuracy(name)) for name in ACCURACIES),
            str(finished) if finished == asked else f"{finished} of {asked}",
            "" if row.seconds is None else f"{row.seconds:.0f}",
            "" if row.peak_memory is None else f"{row.peak_memory:.0f}")


def csv_cells(row):
    """A row in full precision, under CSV_COLUMNS."""
    accuracies = itertools.chain(*(row.accuracy(name) or (None, None) for name in ACCURACIES))
    return (row.method, row.noise, row.rate, *accuracies, len(row.finished), len(row.finished) + len(row.failed),
            row.seconds, row.peak_memory, "; ".join(f"seed {run.seed}: {run.failure}" for run in row.failed))


def noise_name(noise, rate):
    name = report.noise_name({"kind": noise})
    return name if rate is None else f"{name} {rate}"


def write(output_dir, outcomes, *, command, machines):
    """Writes table.csv, table.md, the figures and index.html.

    Args:
      output_dir: where to, a pathlib.Path.
      outcomes: of every run of the grid.
      command: the command line that the grid comes from.
      machines: a line for each machine that trained.
    """
    rows = table_rows(outcomes)
    atomic.write_csv(output_dir / "table.csv", CSV_COLUMNS, map(csv_cells, rows))
    atomic.write_text(output_dir / "table.md", _markdown(rows, command))
    figures = draw(output_dir, rows)
    atomic.write_text(output_dir / "index.html", _page(rows, figures, command, machines))


def draw(output_dir, rows):
    """The figures for which there are runs: [(path, what it shows)]."""
    figures = []
    for (noise, rate), group in _grouped(rows, lambda row: (row.noise, row.rate)):
        curves = {row.method: [run.results["curve"]["validation"] for run in row.finished] for row in group}
        if any(curves.values()):
            path, title = output_dir / f"epochs_{directory_name(noise, rate)}.png", noise_name(noise, rate)
            plots.over_epochs(path, curves, title=title)
            figures.append((path, f"Validation accuracy over the epochs of the exported stage, {title}: mean over "
                                  "seeds, and one standard deviation about it."))
    for noise, group in _grouped(rows, lambda row: row.noise):
        points = {row.method: [] for row in group}
        for row in sorted((row for row in group if row.finished), key=lambda row: row.rate or 0):
            points[row.method].append((row.rate, row.accuracy("best"), row.accuracy("last")))
        if any(len(of_method) > 1 for of_method in points.values()):
            path = output_dir / f"rates_{directory_name(noise, None)}.png"
            plots.over_rates(path, points, title=noise_name(noise, None))
            figures.append((path, f"Test accuracy over the rate, {noise_name(noise, None)}: mean and standard error."))
    return figures


def directory_name(noise, rate):
    """symmetric_0.5, none or, of matrix:some/pairs.csv, matrix_pairs."""
    kind, _, file = noise.partition(":")
    return "_".join([kind, *([pathlib.Path(file).stem] if file else []), *([] if rate is None else [str(rate)])])


def _grouped(rows, key):
    return [(value, [row for row in rows if key(row) == value]) for value in dict.fromkeys(map(key, rows))]


def _percent(accuracy):
    if accuracy is None:
        return "none"
    mean, error = accuracy
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} ± {100 * error:.1f}"


def _failed(rows):
    return [run for row in rows for run in row.failed]


def _datasets(rows):
    return ", ".join(dict.fromkeys(run.results["dataset"] for row in rows for run in row.finished)) or "no finished run"


def _markdown(rows, command):
    lines = [f"# Methods compared: {_datasets(rows)}", "", EXPLANATION, ""]
    table = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2)), *map(cells, rows)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in table]
    if _failed(rows):
        lines += ["", "Not finished:", "", *(f"- {run.name}: {run.failure}" for run in _failed(rows))]
    return "\n".join([*lines, "", "```bash", command, "```", ""])


def _page(rows, figures, command, machines):
    text = html.escape
    body = [f"<h1>Methods compared: {text(_datasets(rows))}</h1>", f"<p>{text(EXPLANATION)}</p>", "<table>",
            f"<tr>{''.join(f'<th>{text(name)}</th>' for name in COLUMNS)}</tr>"]
    for row in rows:
        marked = ' class="failed"' if row.failed else ""
        body.append(f"<tr{marked}>{''.join(f'<td>{text(cell)}</td>' for cell in cells(row))}</tr>")
    body.append("</table>")
    if _failed(rows):
        body += ["<h2>Not finished</h2>", "<ul>",
                 *(f'<li class="failed">{text(run.name)}: {text(run.failure)}</li>' for run in _failed(rows)), "</ul>"]
    for path, caption in figures:
        pixels = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{pixels}">'
                    f"<figcaption>{text(caption)}</figcaption></figure>")
    body += ["<h2>How it was made</h2>", f"<pre>{text(command)}</pre>",
             *(f"<p>{text(line)}</p>" for line in (*machines, _versions(rows)))]
    return "\n".join(['<!DOCTYPE html>', '<html lang="en"><head><meta charset="utf-8"><title>Methods compared</title>',
                      f"<style>{STYLE}</style></head><body>", *body, "</body></html>", ""])


def _versions(rows):
    """"keras 3.15.1, python 3.11.9": of all runs, two where they differ."""
    found = {}
    for run in (run for row in rows for run in row.finished):
        for package, version in run.results["versions"].items():
            found.setdefault(package, set()).add(version or "absent")
    return ", ".join(f"{package} {' and '.join(sorted(versions))}" for package, versions in sorted(found.items()))
