"""The table of a run, and mean and spread over seeds."""

import copy
import json

import pytest

from mlnt_tf import report
from mlnt_tf.config import UserError

ROW = {"best_validation": .8, "last_validation": .7, "test_at_best": .75, "test_last": .6,
       "best_epoch": 3}
CURVES = {"student": [.8], "teacher": [.8]}
RESULTS = {
    "method": "mlnt", "dataset": "digits", "seed": 0, "train_examples": 200, "test_accuracy": .95,
    "noise": {"kind": "symmetric", "rate": .5, "realized_rate": .45},
    "exported": "iteration 1 teacher",
    "exported_filter": {"kept": 90, "filter_precision": .985, "filter_recall": .8},
    "stages": [
        {"name": "cross entropy", "validation": CURVES, "student": ROW,
         "teacher": {**ROW, "test_at_best": .9}, "seconds": 5.4},
        {"name": "iteration 1", "iteration": 1, "validation": CURVES, "student": ROW,
         "teacher": ROW, "kept": 150, "filter_precision": .99, "filter_recall": .5,
         "mentor": "teacher", "seconds": 12.3}]}


def write_results(directory, **changes):
    """Writes results.json with some changes. Returns the directory as text."""
    directory.mkdir()
    results = {**copy.deepcopy(RESULTS), **changes}
    (directory / "results.json").write_text(json.dumps(results))
    return str(directory)


def test_table_has_a_row_for_each_network(tmp_path, capsys):
    assert report.main(["report", write_results(tmp_path / "a")]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("  ")[0] for line in lines if line.startswith(("cross", "iter"))]
    assert rows == ["cross entropy", "cross entropy, EMA", "iteration 1, student",
                    "iteration 1, teacher"]
    assert lines[-3].split()[3:] == ["80.0", "70.0", "75.0", "60.0", "150", "of", "200", "99.0",
                                     "50.0", "12"]


def test_table_states_the_noise_and_the_exported_network(tmp_path, capsys):
    assert report.main(["report", write_results(tmp_path / "a")]) == 0
    output = capsys.readouterr().out
    assert "digits, symmetric noise: 45.0 % of 200 training labels wrong; seed 0" in output
    assert "exported: iteration 1 teacher" in output
    assert "test accuracy 95.0 %" in output
    assert "its filter would keep 90 of 200 training labels, 98.5 % of them correct" in output


def test_unknown_noise_rate_is_stated(tmp_path, capsys):
    noise = {"kind": "none", "rate": None, "realized_rate": None}
    assert report.main(["report", write_results(tmp_path / "a", noise=noise)]) == 0
    output = capsys.readouterr().out
    assert "labels as they are: an unknown fraction of 200 training labels wrong" in output


def test_table_of_several_runs_has_mean_and_standard_deviation(tmp_path, capsys):
    runs = [write_results(tmp_path / str(seed), seed=seed, test_accuracy=accuracy)
            for seed, accuracy in enumerate([.94, .96, .98])]
    assert report.main(["report", *runs]) == 0
    output = capsys.readouterr().out
    assert "test accuracy 96.0 ± 2.0 %" in output
    assert "75.0 ± 0.0" in output
    assert "seeds 0, 1, 2" in output


def test_filter_without_known_true_labels_has_empty_cells():
    results = copy.deepcopy(RESULTS)
    results["stages"][1].update(filter_precision=None, filter_recall=None)
    [line] = [line for line in report.format_table(results).splitlines()
              if line.startswith("iteration 1, teacher")]
    assert line.split()[3:] == ["80.0", "70.0", "75.0", "60.0", "150", "of", "200", "12"]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_missing_or_broken_results_are_refused_in_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert report.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_command_without_runs_is_refused(capsys):
    assert report.main(["report"]) == 2
    assert "arguments are required: RUN" in capsys.readouterr().err


def test_runs_of_different_data_are_not_averaged():
    with pytest.raises(UserError, match="differ in more than their seed: .*cifar10"):
        report.summarize([RESULTS, {**RESULTS, "dataset": "cifar10"}])


def test_runs_with_different_flags_are_not_averaged():
    first = {**RESULTS, "flags": frozenset(["--width=8", "--tau=0.3"])}
    second = {**RESULTS, "seed": 1, "flags": frozenset(["--tau=0.3"])}
    with pytest.raises(UserError, match="differ in more than their seed: --width=8\\."):
        report.summarize([first, second])


def test_runs_with_equal_seeds_are_not_averaged():
    with pytest.raises(UserError, match="The seeds 0, 0 repeat"):
        report.summarize([RESULTS, RESULTS])
