"""Draws the figures of the pages, and takes pictures of HTML pages. Not a test.

    python tests/draw_figures.py
    python tests/draw_figures.py --review=runs/clothing1m_label_issues/review.html
    python tests/draw_figures.py --comparison=runs/compare/index.html

Without a flag, it draws the figures of the tables under configs/results. The pictures need
Chromium. All files are written to configs/figures.
"""

import argparse
import pathlib
import shutil
import statistics
import subprocess
import tempfile

import PIL.Image
from matplotlib.figure import Figure
from render_results import ROOT, grouped, photograph_rows, read_rows

FIGURES = ROOT / "configs/figures"
WIDTH = 960  # Pixels of a picture.
QUALITY = 75  # Of WebP: a picture of photographs has below 100 kB.
TITLES = {"clothing_mini given": "photographs of clothes, 38 % wrong",
          "cifar10n worse": "CIFAR-10N worse, 40 % wrong"}


def draw_first_suspects():
    """Draws the precision of the first n suspects next to the best score of cleanlab."""
    figure, panels = new_figure(len(TITLES))
    groups = grouped(read_rows("first_suspects"), "data", "method")
    for axes, (data, title) in zip(panels, TITLES.items()):
        curves = {method: mean_precision(rows) for (name, method), rows in groups.items()
                  if name == data}
        best = max((method for method in curves if method.startswith("cleanlab")),
                   key=lambda method: statistics.mean(curves[method].values()))
        for method, style in (("mlnt_tf", "o-"), (best, "s--")):
            counts = list(curves[method])
            axes.plot(counts, [100 * curves[method][count] for count in counts], style,
                      label=method)
        axes.set(title=title, xlabel="number of suspects looked at, from the top")
        axes.legend(loc="lower left")
    panels[0].set(ylabel="really wrong, %", ylim=(40, 101))
    figure.savefig(FIGURES / "first_suspects.png", dpi=100)


def draw_photographs():
    """Draws the test accuracy of all methods on photographs over their seconds."""
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(7.2, 4.2)
    for title, rows in photograph_rows().items():
        seconds = statistics.mean(float(row["seconds"]) for row in rows)
        accuracy = 100 * statistics.mean(float(row["test_at_best"]) for row in rows)
        is_recipe, is_ceiling = title.startswith("recipe"), title.endswith("true labels")
        color = "C0" if is_recipe else "gray" if is_ceiling else "C1"
        axes.plot(seconds, accuracy, "^" if is_ceiling else "o", color=color)
        axes.annotate(title.replace("`", ""), (seconds, accuracy), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9,
                      weight="bold" if is_recipe else "normal")
    axes.set(xscale="log", xlabel="seconds on two cores, without the features of frozen bodies",
             ylabel="test accuracy, %", title="photographs of clothes, 38 % wrong labels")
    axes.set_xlim(right=5 * axes.get_xlim()[1])
    figure.savefig(FIGURES / "photos.png", dpi=100)


def mean_precision(rows):
    """Returns {n: precision of the first n suspects}, averaged over seeds."""
    return {int(count): statistics.mean(float(row["precision"]) for row in group)
            for (count,), group in grouped(rows, "n").items()}


def new_figure(num_panels):
    """Returns a figure and its axes, which are side by side and share their vertical scale."""
    figure = Figure(figsize=(4.8 * num_panels, 3.6), layout="constrained")
    panels = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def photograph(page, name, height):
    """Writes a picture of an HTML page in a window of 1280 pixels: configs/figures/NAME."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "page.png"
        subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--window-size=1280,{height}", f"--user-data-dir={directory}",
             "--virtual-time-budget=5000", f"--screenshot={path}", page.resolve().as_uri()],
            check=True, capture_output=True)
        image = PIL.Image.open(path).convert("RGB")
        size = WIDTH, round(image.height * WIDTH / image.width)
        image.resize(size, PIL.Image.Resampling.LANCZOS).save(FIGURES / name, quality=QUALITY)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--review", type=pathlib.Path, help="review.html of a run")
    parser.add_argument("--comparison", type=pathlib.Path, help="index.html of a comparison")
    options = parser.parse_args()
    if options.review:
        photograph(options.review, "review.webp", height=820)
    if options.comparison:
        photograph(options.comparison, "comparison.webp", height=1000)
    if not (options.review or options.comparison):
        draw_first_suspects()
        draw_photographs()


if __name__ == "__main__":
    main()
