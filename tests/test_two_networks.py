"""A method with two networks lives in one file: this one. The command trains, resumes, selects and exports it."""

import json

import keras
import pytest
import tensorflow as tf

from mlnt_tf import losses, train
from mlnt_tf.experiment.select import Candidate
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.training import callbacks

import kill

TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--epochs=2", "--steps_per_epoch=3",
        "--precision=float32", "--checkpoint_every=1", f"--method={__name__}:train_coteaching"]


class CoTeaching(CrossEntropy):
    """Two students; each trains on the examples of small loss in the eyes of the other (Han et al. 2018)."""

    def __init__(self, network, *, keep=0.7, **kwargs):
        super().__init__(network, **kwargs)
        self.keep = keep
        self.second = keras.models.clone_model(network)

    @property
    def networks(self):
        return {**super().networks, "second": self.second}

    @property
    def trained_variables(self):
        return self.student.trainable_variables + self.second.trainable_variables

    def forward(self, batch):
        logits = [network(batch["image"], training=True) for network in (self.student, self.second)]
        first, second = (losses.cross_entropy(batch["label"], each) for each in logits)
        return logits[0], self.small(second) * first + self.small(first) * second

    def small(self, values):
        """Returns 1 for the examples whose loss is among the smallest, else 0: float32 [batch]."""
        count = int(self.keep * values.shape[0])
        threshold = -tf.math.top_k(-values, count).values[-1]
        return tf.stop_gradient(tf.cast(values <= threshold, tf.float32))


def train_coteaching(run, keep):
    stage = run.stage("coteaching")
    stage.train(lambda network: CoTeaching(network, keep=keep))


def candidates(stages):
    return [Candidate(stages[-1], network) for network in ("student", "second")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("coteaching") / "run"
    assert train.main(["train", *TINY, "--method_args=keep=0.5", f"--output_dir={place}"]) == 0
    return place


def test_every_network_is_validated_stored_and_reported(finished):
    results = json.loads((finished / "results.json").read_text())
    stage, = results["stages"]
    assert set(stage["validation"]) == {"student", "teacher", "second"}
    assert all({"test_at_best", "test_last"} <= set(stage[network]) for network in stage["validation"])
    assert {path.name for path in finished.glob("coteaching/*_best.keras")} == {
        "student_best.keras", "teacher_best.keras", "second_best.keras"}


def test_the_better_student_by_validation_is_exported(finished):
    results = json.loads((finished / "results.json").read_text())
    stage, = results["stages"]
    better = max(("second", "student"), key=lambda network: stage[network]["best_validation"])
    assert results["exported"] == f"coteaching {better}"
    assert results["best"] == stage[better]


def test_the_table_has_a_row_for_each_network(finished, capsys):
    assert train.main(["train", *TINY, "--method_args=keep=0.5", f"--output_dir={finished}"]) == 0
    printed = capsys.readouterr().out
    for row in ("coteaching ", "coteaching, EMA ", "coteaching, second "):
        assert row in printed


def test_an_interrupted_run_ends_with_the_same_bytes(finished, tmp_path, monkeypatch):
    def stop(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            raise KeyboardInterrupt

    flags = ["train", *TINY, "--method_args=keep=0.5", f"--output_dir={tmp_path / 'cut'}"]
    with monkeypatch.context() as patched:
        patched.setattr(callbacks.EpochLog, "on_train_batch_end", stop)
        assert train.main(flags) == 130
    assert train.main(flags) == 0
    assert kill.contents(tmp_path / "cut") == kill.contents(finished)


def test_other_arguments_are_another_run(finished, capsys):
    assert train.main(["train", *TINY, "--method_args=keep=0.9", f"--output_dir={finished}"]) == 2
    assert "--method_args=keep=0.5 there, --method_args=keep=0.9 here" in capsys.readouterr().err
