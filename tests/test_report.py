import copy
import json

import pytest

from mlnt_tf import report
from mlnt_tf.config import UserError

ROW = {"best_validation": .8, "last_validation": .7, "test_at_best": .75, "test_last": .6, "best_epoch": 3}
CURVES = {"student": [.8], "teacher": [.8]}
RESULTS = {
    "method": "mlnt", "dataset": "digits", "seed": 0, "train_examples": 200, "test_accuracy": .95,
    "noise": {"kind": "symmetric", "rate": .5, "realized_rate": .45}, "exported": "iteration 1 teacher",
    "exported_filter": {"kept": 90, "filter_precision": .985, "filter_recall": .8},
    "stages": [{"name": "cross entropy", "validation": CURVES, "student": ROW, "teacher": {**ROW, "test_at_best": .9}, "seconds": 5.4},
               {"name": "iteration 1", "iteration": 1, "validation": CURVES, "student": ROW, "teacher": ROW, "kept": 150,
                "filter_precision": .99, "filter_recall": .5, "mentor": "teacher", "seconds": 12.3}]}


def written(path, **changes):
    path.mkdir()
    (path / "results.json").write_text(json.dumps({**copy.deepcopy(RESULTS), **changes}))
    return str(path)


def test_the_table_of_a_run(tmp_path, capsys):
    assert report.main(["report", written(tmp_path / "a")]) == 0
    shown = capsys.readouterr().out
    assert "150 of 200" in shown and "99.0" in shown and "45.0 % of 200 training labels wrong" in shown
    assert "it would keep 90 of 200 training labels, 98.5 % of them right" in shown
    assert "exported: iteration 1 teacher" in shown and "95.0 %" in shown
    assert [line.split("  ")[0] for line in shown.splitlines() if line.startswith(("cross", "iter"))] == [
        "cross entropy", "cross entropy, EMA", "iteration 1, student", "iteration 1, teacher"]


def test_mean_and_standard_deviation_over_seeds(tmp_path, capsys):
    runs = [written(tmp_path / str(seed), seed=seed, test_accuracy=accuracy)
            for seed, accuracy in enumerate([.94, .96, .98])]
    assert report.main(["report", *runs]) == 0
    shown = capsys.readouterr().out
    assert "96.0 ± 2.0" in shown and "75.0 ± 0.0" in shown and "seeds 0, 1, 2" in shown


def test_rows_without_a_filter_have_empty_cells():
    results = copy.deepcopy(RESULTS)
    results["stages"][1].update(filter_precision=None, filter_recall=None)
    assert "150 of 200" in report.format_table(results)


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    with pytest.raises(UserError, match="differ in more"):
        report.summarize([RESULTS, {**RESULTS, "dataset": "cifar10"}])


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_missing_or_broken_file_is_told_in_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert report.main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_no_run_at_all(capsys):
    assert report.main(["report"]) == 2


def test_runs_of_other_flags_or_of_one_seed_are_not_averaged():
    with pytest.raises(UserError, match="--width=8"):
        report.summarize([{**RESULTS, "flags": frozenset(["--width=8"])}, {**RESULTS, "seed": 1, "flags": frozenset()}])
    with pytest.raises(UserError, match="repeat"):
        report.summarize([RESULTS, RESULTS])
