"""Accuracies drawn as PNG files."""

import math
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlnt_tf.files import atomic

MARKERS = "osD^vP*Xdh"
DASHES = ("-", "--", "-.", ":")


def over_epochs(path, curves, *, title):
    """Validation accuracy over epochs: the mean over seeds as a line, one standard deviation about it as a band.

    Args:
      path: of the PNG.
      curves: {name: one list of fractions, an epoch each, for each seed}; drawn as far as all seeds of a name go. A
        name without seeds is left out, and keeps its colour for the others' sake.
      title: a line above.
    """
    figure, (axes,) = _panels([title])
    for number, (name, seeds) in enumerate(curves.items()):
        if not seeds:
            continue
        values = [[100 * value for value in epoch] for epoch in zip(*seeds)]
        epochs, mean = range(1, len(values) + 1), [statistics.mean(epoch) for epoch in values]
        line, = axes.plot(epochs, mean, label=name, **_style(number))
        if not values[1:]:  # a line of one point is not seen
            line.set_marker("o")
        if seeds[1:]:
            spread = [statistics.stdev(epoch) for epoch in values]
            axes.fill_between(epochs, [at - by for at, by in zip(mean, spread)],
                              [at + by for at, by in zip(mean, spread)], color=line.get_color(), alpha=.15, linewidth=0)
    axes.set(xlabel="epoch of the exported stage", ylabel="validation accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def over_rates(path, points, *, title):
    """Test accuracy over the noise rate with its standard errors, best and last epoch side by side.

    Args:
      path: of the PNG.
      points: {name: [(rate, best, last), …]} with rising rates, each accuracy (mean, standard error or None) in
        fractions.
      title: a line above.
    """
    figure, panels = _panels(["best epoch", "last epoch"])
    figure.suptitle(title)
    for column, axes in enumerate(panels, start=1):
        for number, (name, rows) in enumerate(points.items()):
            if rows:
                means, errors = zip(*(row[column] for row in rows))
                axes.errorbar([row[0] for row in rows], [100 * mean for mean in means],
                              yerr=[math.nan if error is None else 100 * error for error in errors], label=name,
                              capsize=3, marker=MARKERS[number % len(MARKERS)], **_style(number))
        axes.set(xlabel="noise rate")
    panels[0].set(ylabel="test accuracy, %")
    _save(figure, path)


def _panels(titles):
    figure = Figure(figsize=(2 + 5 * len(titles), 4.2), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles):
        axes.set_title(title)
        axes.grid(alpha=0.3)
    return figure, panels


def _style(number):
    """Of the name in this place: the same in every figure."""
    return {"color": f"C{number % 10}", "linestyle": DASHES[number % len(DASHES)]}


def _save(figure, path):
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    with atomic.replacing(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
