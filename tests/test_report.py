import copy
import json

import pytest

from mlnt_tf import report
from mlnt_tf.config import UserError


def network(accuracy):
    return {"best_validation": accuracy, "test_at_best": accuracy - 0.01, "last_validation": accuracy - 0.02,
            "test_last": accuracy - 0.03}


def results(seed=0, shift=0.0):
    return {
        "method": "mlnt", "dataset": "digits", "seed": seed, "train_examples": 1000,
        "noise": {"kind": "symmetric", "rate": 0.5, "realized_rate": 0.45},
        "cross_entropy": network(0.6 + shift), "cross_entropy_ema": network(0.7 + shift),
        "iterations": [
            {"iteration": 1, "student": network(0.8 + shift), "teacher": network(0.85 + shift), "kept": 1000,
             "filter_precision": 0.55, "filter_recall": 1.0, "mentor": "teacher", "seconds": 12.4},
            {"iteration": 2, "student": network(0.9 + shift), "teacher": network(0.95 + shift), "kept": 543,
             "filter_precision": 0.987, "filter_recall": None, "mentor": "teacher", "seconds": 13.6}],
        "exported": "iteration 2 teacher", "test_accuracy": 0.94 + shift, "versions": {}}


def row(table, label):
    return next(line for line in table.splitlines() if line.startswith(label)).removeprefix(label).split()


def test_the_table_has_a_row_for_every_network():
    table = report.format_table(results())
    assert "mlnt on digits, noise symmetric 0.5, seed 0" in table and "45.0 % of their labels wrong" in table
    assert row(table, "cross entropy EMA") == ["70.00", "69.00", "68.00", "67.00", "-", "-", "-", "-"]
    assert row(table, "iteration 2 student") == [
        "90.00", "89.00", "88.00", "87.00", "543", "of", "1000", "(54.3", "%)", "98.70", "-", "14"]
    assert row(table, "iteration 2 teacher")[:2] == ["95.00", "94.00"]
    assert table.splitlines()[-1] == "exported: iteration 2 teacher, test accuracy 94.00 %"
    assert len({len(line) for line in table.splitlines()[1:-1]}) == 1


def test_cross_entropy_alone_has_no_iterations():
    table = report.format_table({**results(), "method": "cross_entropy", "iterations": []})
    assert len(table.splitlines()) == 5


def test_the_summary_is_mean_and_sample_standard_deviation():
    table = report.summarize([results(seed, shift) for seed, shift in ((3, -0.01), (4, 0.0), (7, 0.01))])
    assert "3 runs" in table and "seeds 3, 4, 7" in table
    assert row(table, "iteration 1 teacher")[:3] == ["85.00", "±", "1.00"]
    assert "54.3 ± 0.0" in table
    assert table.splitlines()[-1].endswith("test accuracy 94.00 ± 1.00 %")
    assert "iteration 2 teacher (seed 7)" in table


@pytest.mark.parametrize("change", [
    {"method": "cross_entropy"}, {"dataset": "cifar10"}, {"train_examples": 900}, {"iterations": []},
    {"noise": {"kind": "symmetric", "rate": 0.3, "realized_rate": 0.27}}])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(change):
    with pytest.raises(UserError, match="differ in --seed alone"):
        report.summarize([results(), {**results(1), **change}])


def write(directory, contents):
    directory.mkdir()
    (directory / "results.json").write_text(contents if isinstance(contents, str) else json.dumps(contents))
    return str(directory)


def test_the_command_takes_directories_and_files(tmp_path, capsys):
    first, second = write(tmp_path / "a", results()), write(tmp_path / "b", results(1))
    assert report.main([first]) == 0
    assert capsys.readouterr().out.strip() == report.format_table(results())
    assert report.main([first, second + "/results.json"]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    good = write(tmp_path / "good", results())
    lacking = copy.deepcopy(results())
    del lacking["iterations"][0]["student"]["test_last"]
    (tmp_path / "empty").mkdir()
    cases = [[], [str(tmp_path / "empty")], [str(tmp_path / "nowhere")], [good, write(tmp_path / "broken", "{")],
             [write(tmp_path / "list", "[1]")], [write(tmp_path / "lacking", lacking)],
             [good, write(tmp_path / "other", {**results(), "dataset": "cifar10"})]]
    for arguments in cases:
        assert report.main(arguments) == 2
        told = capsys.readouterr()
        assert not told.out and len(told.err.splitlines()) == 1
        if arguments[-1:] and arguments[-1] != good and "other" not in arguments[-1]:
            assert arguments[-1] in told.err
