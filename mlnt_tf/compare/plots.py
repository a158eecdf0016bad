"""Figures of accuracies, drawn as PNG files."""

import math
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlnt_tf.files import atomic

MARKERS = "osD^vP*Xdh"
DASHES = ("-", "--", "-.", ":")


def over_epochs(path, curves, *, title):
    """Draws validation accuracies over epochs: the mean over seeds and a band of ± one deviation.

    Args:
      path: pathlib.Path of the PNG file.
      curves: dict of names to one list of fractions per seed, with one fraction per epoch. Epochs
        that a seed lacks are left out. A name without seeds is not drawn, but keeps its color.
      title: str.
    """
    figure, (axes,) = _panels([title])
    for number, (name, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        values = [[100 * value for value in epoch] for epoch in zip(*seeds)]
        epochs = range(1, len(values) + 1)
        means = [statistics.mean(epoch) for epoch in values]
        line, = axes.plot(epochs, means, label=name, **_style(number))
        if len(values) == 1:  # A line of one point is invisible.
            line.set_marker("o")
        if len(seeds) > 1:
            deviations = [statistics.stdev(epoch) for epoch in values]
            lower = [mean - deviation for mean, deviation in zip(means, deviations)]
            upper = [mean + deviation for mean, deviation in zip(means, deviations)]
            axes.fill_between(epochs, lower, upper, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch of the exported stage", ylabel="validation accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def over_rates(path, points, *, title):
    """Draws test accuracies with standard errors over noise rates, for best and last epoch.

    Args:
      path: pathlib.Path of the PNG file.
      points: dict of names to lists of (rate, best, last) in ascending order of rates. Each
        accuracy is a pair of its mean and its standard error or None, in fractions.
      title: str.
    """
    figure, panels = _panels(["best epoch", "last epoch"])
    figure.suptitle(title)
    for column, axes in enumerate(panels, start=1):
        for number, (name, rows) in enumerate(points.items()):
            if not rows:
                continue
            means, errors = zip(*(row[column] for row in rows))
            bars = [math.nan if error is None else 100 * error for error in errors]
            axes.errorbar([row[0] for row in rows], [100 * mean for mean in means], yerr=bars,
                          label=name, capsize=3, marker=MARKERS[number % len(MARKERS)],
                          **_style(number))
        axes.set(xlabel="noise rate")
    panels[0].set(ylabel="test accuracy, %")
    _save(figure, path)


def _panels(titles):
    """Returns a figure, and an array of axes side by side, one per title."""
    figure = Figure(figsize=(2 + 5 * len(titles), 4.2), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles):
        axes.set_title(title)
        axes.grid(alpha=0.3)
    return figure, panels


def _style(number):
    """Returns color and dash pattern of the n-th method, the same in every figure."""
    return {"color": f"C{number % 10}", "linestyle": DASHES[number % len(DASHES)]}


def _save(figure, path):
    """Writes a figure with its legend."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    with atomic.replacing(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
