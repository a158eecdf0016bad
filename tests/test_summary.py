"""Tables, figures and page of invented runs, with means and errors computed by hand."""

import base64
import csv
import html.parser
import math

import pytest

from mlnt_tf.compare import plots, summary


def run(method, seed, best=None, last=.5, *, rate=.5, noise="symmetric"):
    """Returns the outcome of a run, a failed one if no best accuracy is given."""
    if best is None:
        return summary.Outcome(method, noise, rate, seed, failure="--tau=<1> selects nothing")
    results = {
        "best_accuracy": best, "last_accuracy": last, "curve": {"validation": [.2, best]},
        "stages": [{"teacher": {"test_at_best": .1, "test_last": .1}},
                   {"teacher": {"test_at_best": best - .1, "test_last": last - .1}}],
        "seconds": 10.0 + seed, "peak_memory_mb": 500.0 + seed, "dataset": "digits",
        "versions": {"keras": "3.15.1", "scann": None}}
    return summary.Outcome(method, noise, rate, seed, results)


OUTCOMES = [run("mlnt", 0, .80, .60), run("gce", 0, .7), run("mlnt", 1, .86, .62), run("gce", 1),
            run("mlnt", 2, .92, .70), run("gce", 2), run("elr", 0)]


@pytest.mark.parametrize("values, expected", [
    # Deviations -0.06, 0 and 0.06 give the variance 0.0072 / 2 and the deviation 0.06.
    ([.80, .86, .92], (.86, .06 / math.sqrt(3))),
    ([.5, .7], (.6, .1))])
def test_standard_error_is_the_deviation_over_the_root_of_n(values, expected):
    assert summary.mean_and_error(values) == pytest.approx(expected)


def test_standard_error_of_one_value_is_none():
    assert summary.mean_and_error([.7]) == (.7, None)
    assert summary.mean_and_error([]) is None


def test_cells_equal_the_hand_computed_values():
    mlnt, gce, elr = map(summary.cells, summary.table_rows(OUTCOMES))
    # Last: mean 0.64, variance (0.0016 + 0.0004 + 0.0036) / 2 = 0.0028, error 0.0306.
    assert mlnt == ("mlnt", "symmetric", "0.5", "86.0 ± 3.5", "64.0 ± 3.1", "76.0 ± 3.5",
                    "54.0 ± 3.1", "3", "11", "502")
    assert gce == ("gce", "symmetric", "0.5", "70.0", "50.0", "60.0", "40.0", "1 of 3", "10",
                   "500")
    assert elr == ("elr", "symmetric", "0.5", "none", "none", "none", "none", "0 of 1", "", "")


def test_rows_are_grouped_by_noise_and_rate():
    conditions = (("symmetric", .3), ("symmetric", .5), ("none", None))
    outcomes = [run(method, seed, .5, rate=rate, noise=noise) for seed in (0, 1)
                for noise, rate in conditions for method in ("mlnt", "gce")]
    rows = [(row.noise, row.rate, row.method, len(row.finished))
            for row in summary.table_rows(outcomes)]
    assert rows == [(noise, rate, method, 2) for noise, rate in conditions
                    for method in ("mlnt", "gce")]


@pytest.mark.parametrize("noise, rate, expected", [
    ("symmetric", .5, "symmetric_0.5"), ("none", None, "none"),
    ("matrix:some/pairs.csv", None, "matrix_pairs")])
def test_directory_name_of_a_noise(noise, rate, expected):
    assert summary.directory_name(noise, rate) == expected


def test_csv_table_has_full_precision(tmp_path):
    summary.write(tmp_path, OUTCOMES, command="", machines=[])
    mlnt, gce, elr = csv.DictReader((tmp_path / "table.csv").open())
    assert float(mlnt["best_accuracy"]) == pytest.approx(.86)
    assert float(mlnt["best_standard_error"]) == pytest.approx(.06 / math.sqrt(3))
    assert float(mlnt["ema_last_accuracy"]) == pytest.approx(.54)
    assert (gce["best_standard_error"], gce["seeds_finished"], gce["seeds"]) == ("", "1", "3")
    assert elr["best_accuracy"] == ""
    assert elr["failures"] == "seed 0: --tau=<1> selects nothing"


def test_markdown_table_lists_rows_failures_and_command(tmp_path):
    summary.write(tmp_path, OUTCOMES, command="python -m mlnt_tf.compare", machines=[])
    table = (tmp_path / "table.md").read_text()
    assert ("| mlnt | symmetric | 0.5 | 86.0 ± 3.5 | 64.0 ± 3.1 | 76.0 ± 3.5 | 54.0 ± 3.1 "
            "| 3 | 11 | 502 |") in table
    assert "- gce, symmetric noise 0.5, seed 1: --tau=<1> selects nothing" in table
    assert "python -m mlnt_tf.compare" in table


class Reader(html.parser.HTMLParser):
    """Collects images and links, and asserts that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.images = []
        self.links = []
        self.open_tags = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("href", "src")]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("meta", "img"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag


@pytest.fixture
def page_dir(tmp_path):
    """The directory of a comparison with two rates."""
    outcomes = [*OUTCOMES, run("mlnt", 0, .7, rate=.7), run("gce", 0, .6, rate=.7)]
    summary.write(tmp_path, outcomes, command="compare --methods='a<b'",
                  machines=["AMD, 2 cores"])
    return tmp_path


def test_page_contains_its_images_and_loads_nothing(page_dir):
    page = (page_dir / "index.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open_tags == []
    assert "<script" not in page
    prefix = "data:image/png;base64,"
    assert reader.links and all(link.startswith(prefix) for link in reader.links)
    contents = {base64.b64decode(image["src"].removeprefix(prefix)) for image in reader.images}
    names = ("epochs_symmetric_0.5.png", "epochs_symmetric_0.7.png", "rates_symmetric.png")
    assert contents == {(page_dir / name).read_bytes() for name in names}
    assert all(image["alt"] for image in reader.images)


def test_page_escapes_its_texts(page_dir):
    page = (page_dir / "index.html").read_text(encoding="utf-8")
    for text in ("86.0 ± 3.5", "AMD, 2 cores", "keras 3.15.1", "scann absent", "a&lt;b",
                 "--tau=&lt;1&gt;"):
        assert text in page


def test_table_without_finished_runs_has_no_figures(tmp_path):
    summary.write(tmp_path, [run("mlnt", 0)], command="", machines=[])
    assert "no finished run" in (tmp_path / "index.html").read_text()
    assert not list(tmp_path.glob("*.png"))


@pytest.fixture
def figures(monkeypatch):
    """A list that collects the figures instead of saving them."""
    collected = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: collected.append(figure))
    return collected


def test_band_is_one_deviation_about_the_mean(figures):
    curves = {"none": [], "two": [[.5, .7], [.7, .7, .9]], "one": [[.1, .2]]}
    plots.over_epochs("unused", curves, title="")
    [axes] = figures[0].axes
    two, one = axes.lines
    assert list(two.get_ydata()) == pytest.approx([60, 70])
    assert list(one.get_ydata()) == pytest.approx([10, 20])
    [band] = axes.collections
    first_epoch = [y for x, y in band.get_paths()[0].vertices if x == 1]
    deviation = 10 * math.sqrt(2)
    limits = (min(first_epoch), max(first_epoch))
    assert limits == pytest.approx((60 - deviation, 60 + deviation))


def test_color_does_not_depend_on_methods_without_runs(figures):
    plots.over_epochs("unused", {"none": [], "two": [[.5, .7]], "one": [[.1, .2]]}, title="")
    assert [line.get_color() for line in figures[0].axes[0].lines] == ["C1", "C2"]


def test_point_of_one_seed_has_no_error_bar(figures):
    points = {"mlnt": [(.3, (.9, .02), (.8, None)), (.5, (.7, .03), (.6, None))]}
    plots.over_rates("unused", points, title="")
    best, last = figures[0].axes
    assert list(best.lines[0].get_ydata()) == pytest.approx([90, 70])
    bars = [list(bar[:, 1]) for bar in best.collections[0].get_segments()]
    assert bars == [pytest.approx([88, 92]), pytest.approx([67, 73])]
    assert list(last.lines[0].get_ydata()) == pytest.approx([80, 60])
    ends = [y for bar in last.collections[0].get_segments() for _, y in bar.tolist()]
    assert not any(map(math.isfinite, ends))
