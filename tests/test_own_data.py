"""Complete trainings on tables of images: what is recorded, and what stops the next run."""

import csv
import json
import shutil

import pytest

from mlnt_tf import runner, train
from mlnt_tf.config import Config, UserError, flags
from mlnt_tf.data import load
from mlnt_tf.experiment import record

from pictures import tree

TINY = ["--method=cross_entropy", "--epochs=1", "--pretrain_epochs=1", "--batch_size=8",
        "--steps_per_epoch=2", "--width=2", "--device=cpu", "--dataset=csv"]


def write_table(root, labels):
    rows = "".join(f"{row}.png,{label}\n" for row, label in enumerate(labels))
    (root / "labels.csv").write_text(f"path,label\n{rows}")


@pytest.mark.slow
def test_run_on_a_table_is_bound_to_its_data_but_not_to_their_path(tmp_path, capsys):
    labels = ["cat", "dog"] * 20 + ["nan"] * 3
    tree(tmp_path, {f"job1/{row}.png": None for row in range(len(labels))})
    write_table(tmp_path / "job1", labels)

    def run(job):
        return train.main(["train", *TINY, f"--data_dir={tmp_path / job}/labels.csv",
                           f"--output_dir={tmp_path / 'run'}"])

    assert run("job1") == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    test = results["per_class"]["test"]
    assert [entry["name"] for entry in test["classes"]] == ["cat", "dog"]
    known = [entry["accuracy"] for entry in test["classes"] if entry["accuracy"] is not None]
    assert test["macro_accuracy"] == pytest.approx(sum(known) / len(known))
    with open(tmp_path / "run/unlabeled.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["record"] for row in rows] == ["40.png", "41.png", "42.png"]
    assert {row["predicted_class"] for row in rows} <= {"cat", "dog"}

    shutil.move(tmp_path / "job1", tmp_path / "job2")
    capsys.readouterr()
    assert run("job2") == 0
    assert "already finished" in capsys.readouterr().out
    assert f"--data_dir={tmp_path}/job2/labels.csv" in (tmp_path / "run/flags.txt").read_text()

    write_table(tmp_path / "job2", ["dog", "dog", *labels[2:]])
    assert run("job2") == 2
    assert "holds a run on other data: the labels of 1 images differ" in capsys.readouterr().err

    shutil.rmtree(tmp_path / "job2")
    assert run("job2") == 0
    assert "already finished" in capsys.readouterr().out


def test_run_that_began_during_loading_is_not_taken_for_this_one(tmp_path, monkeypatch):
    """Run A records itself in the directory while run B still reads slow data."""
    def begin_other_run(config):
        other = Config(output_dir=config.output_dir, seed=0, precision="float32")
        (tmp_path / record.FLAGS_FILE).write_text(flags.flag_file(other))
        return load_examples(config)

    load_examples = load.load_examples
    monkeypatch.setattr(load, "load_examples", begin_other_run)
    config = Config(output_dir=str(tmp_path), seed=1, precision="float32", train_examples=200,
                    batch_size=32, width=2, method="cross_entropy")
    with pytest.raises(UserError, match="--seed=0 there, --seed=1 here"):
        runner.run(config)
