"""Tables, figures and page of made-up runs, with means and standard errors worked out by hand."""

import base64
import csv
import html.parser
import math

import pytest

from mlnt_tf.compare import plots, summary


def run(method, seed, best=None, last=.5, *, rate=.5, noise="symmetric"):
    if best is None:
        return summary.Outcome(method, noise, rate, seed, failure="--tau=<1> keeps nothing")
    results = {"best_accuracy": best, "last_accuracy": last, "curve": {"validation": [.2, best]},
               "stages": [{"teacher": {"test_at_best": .1, "test_last": .1}},
                          {"teacher": {"test_at_best": best - .1, "test_last": last - .1}}],
               "seconds": 10.0 + seed, "peak_memory_mb": 500.0 + seed, "dataset": "digits",
               "versions": {"keras": "3.15.1", "scann": None}}
    return summary.Outcome(method, noise, rate, seed, results)


OUTCOMES = [run("mlnt", 0, .80, .60), run("gce", 0, .7), run("mlnt", 1, .86, .62), run("gce", 1),
            run("mlnt", 2, .92, .70), run("gce", 2), run("elr", 0)]


def test_the_standard_error_is_the_deviation_over_the_root_of_n():
    # deviations -.06, 0, .06: variance .0072 / 2, deviation .06, error .06 / sqrt(3)
    assert summary.mean_and_error([.80, .86, .92]) == pytest.approx((.86, .06 / math.sqrt(3)))
    assert summary.mean_and_error([.5, .7]) == pytest.approx((.6, .1))
    assert summary.mean_and_error([.7]) == (.7, None) and summary.mean_and_error([]) is None


def test_the_table_by_hand():
    mlnt, gce, elr = map(summary.cells, summary.table_rows(OUTCOMES))
    # last: .60, .62, .70, mean .64, variance (.0016 + .0004 + .0036) / 2 = .0028, error .0306
    assert mlnt == ("mlnt", "symmetric", "0.5", "86.0 ± 3.5", "64.0 ± 3.1", "76.0 ± 3.5", "54.0 ± 3.1", "3", "11", "502")
    assert gce == ("gce", "symmetric", "0.5", "70.0", "50.0", "60.0", "40.0", "1 of 3", "10", "500")
    assert elr == ("elr", "symmetric", "0.5", "none", "none", "none", "none", "0 of 1", "", "")


def test_rows_are_grouped_by_noise_and_rate():
    outcomes = [run(method, seed, .5, rate=rate, noise=noise) for seed in (0, 1) for noise, rate in
                (("symmetric", .3), ("symmetric", .5), ("none", None)) for method in ("mlnt", "gce")]
    assert [(row.noise, row.rate, row.method, len(row.finished)) for row in summary.table_rows(outcomes)] == [
        ("symmetric", .3, "mlnt", 2), ("symmetric", .3, "gce", 2), ("symmetric", .5, "mlnt", 2),
        ("symmetric", .5, "gce", 2), ("none", None, "mlnt", 2), ("none", None, "gce", 2)]


def test_files_hold_the_table_in_full(tmp_path):
    summary.write(tmp_path, OUTCOMES, command="python -m mlnt_tf.compare", machines=["a machine"])
    mlnt, gce, elr = csv.DictReader((tmp_path / "table.csv").open())
    assert float(mlnt["best_accuracy"]) == pytest.approx(.86)
    assert float(mlnt["best_standard_error"]) == pytest.approx(.06 / math.sqrt(3))
    assert float(mlnt["ema_last_accuracy"]) == pytest.approx(.54)
    assert (gce["best_standard_error"], gce["seeds_finished"], gce["seeds"]) == ("", "1", "3")
    assert elr["best_accuracy"] == "" and elr["failures"] == "seed 0: --tau=<1> keeps nothing"
    table = (tmp_path / "table.md").read_text()
    assert "| mlnt | symmetric | 0.5 | 86.0 ± 3.5 | 64.0 ± 3.1 | 76.0 ± 3.5 | 54.0 ± 3.1 | 3 | 11 | 502 |" in table
    assert "- gce, symmetric noise 0.5, seed 1: --tau=<1> keeps nothing" in table
    assert "python -m mlnt_tf.compare" in table


def test_the_page_opens_from_disk_and_holds_everything(tmp_path):
    outcomes = [*OUTCOMES, run("mlnt", 0, .7, rate=.7), run("gce", 0, .6, rate=.7)]
    summary.write(tmp_path, outcomes, command="compare --methods='a<b'", machines=["AMD, 2 cores"])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    images, links, opened = [], [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            attributes = dict(attributes)
            links.extend(value for name, value in attributes.items() if name in ("href", "src"))
            if tag == "img":
                images.append(attributes)
            if tag not in ("meta", "img"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(page)
    assert opened == [] and "<script" not in page
    prefix = "data:image/png;base64,"
    assert links and all(link.startswith(prefix) for link in links)
    assert {base64.b64decode(image["src"].removeprefix(prefix)) for image in images} == {
        (tmp_path / name).read_bytes() for name in
        ("epochs_symmetric_0.5.png", "epochs_symmetric_0.7.png", "rates_symmetric.png")}
    assert all(image["alt"] for image in images)
    for told in ("86.0 ± 3.5", "AMD, 2 cores", "keras 3.15.1", "scann absent", "a&lt;b", "--tau=&lt;1&gt;"):
        assert told in page


def test_nothing_finished_is_a_table_without_figures(tmp_path):
    summary.write(tmp_path, [run("mlnt", 0)], command="", machines=[])
    assert "no finished run" in (tmp_path / "index.html").read_text() and not list(tmp_path.glob("*.png"))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    return figures


def test_the_band_is_one_deviation_about_the_mean(drawn):
    plots.over_epochs("unused", {"none": [], "two": [[.5, .7], [.7, .7, .9]], "one": [[.1, .2]]}, title="t")
    axes, = drawn[0].axes
    two, one = axes.lines
    assert list(two.get_ydata()) == pytest.approx([60, 70]) and list(one.get_ydata()) == pytest.approx([10, 20])
    band, = axes.collections
    first = [y for x, y in band.get_paths()[0].vertices if x == 1]
    assert (min(first), max(first)) == pytest.approx((60 - 10 * math.sqrt(2), 60 + 10 * math.sqrt(2)))
    assert (two.get_color(), one.get_color()) == ("C1", "C2")  # the places of the names, whoever is left out


def test_points_of_one_seed_have_no_error_bar(drawn):
    plots.over_rates("unused", {"mlnt": [(.3, (.9, .02), (.8, None)), (.5, (.7, .03), (.6, None))]}, title="t")
    best, last = drawn[0].axes
    assert list(best.lines[0].get_ydata()) == pytest.approx([90, 70])
    assert [list(bar[:, 1]) for bar in best.collections[0].get_segments()] == [
        pytest.approx([88, 92]), pytest.approx([67, 73])]
    assert list(last.lines[0].get_ydata()) == pytest.approx([80, 60])
    assert not [y for bar in last.collections[0].get_segments() for _, y in bar.tolist() if math.isfinite(y)]
