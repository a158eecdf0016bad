"""A method with two networks, defined in this file. The command trains, resumes and exports it."""

import json

import keras
import pytest
import tensorflow as tf

from mlnt_tf import losses, train
from mlnt_tf.experiment.select import Candidate
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.training import callbacks

import kill

pytestmark = pytest.mark.slow
TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--epochs=2", "--steps_per_epoch=3",
        "--precision=float32", "--checkpoint_every=1", f"--method={__name__}:train_coteaching"]
KEEP = "--method_args=keep=0.5"


class CoTeaching(CrossEntropy):
    """Two students. Each trains on the examples whose loss is small for the other.

    The method is that of Han et al., NeurIPS 2018.

    Args:
      network: as for `CrossEntropy`.
      keep: float in (0, 1], the fraction of a batch that each student trains on.
    """

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
        logits = self.student(batch["image"], training=True)
        first = losses.cross_entropy(batch["label"], logits)
        second = losses.cross_entropy(batch["label"], self.second(batch["image"], training=True))
        return logits, self.is_small(second) * first + self.is_small(first) * second

    def is_small(self, loss):
        """Returns 1 for the examples with the smallest losses, else 0: float32 [batch]."""
        count = int(self.keep * loss.shape[0])
        threshold = -tf.math.top_k(-loss, count).values[-1]
        return tf.stop_gradient(tf.cast(loss <= threshold, tf.float32))


def train_coteaching(run, keep):
    stage = run.stage("coteaching")
    stage.train(lambda network: CoTeaching(network, keep=keep))


def candidates(stages):
    return [Candidate(stages[-1], network) for network in ("student", "second")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run."""
    output_dir = tmp_path_factory.mktemp("coteaching") / "run"
    assert train.main(["train", *TINY, KEEP, f"--output_dir={output_dir}"]) == 0
    return output_dir


def read_stage(output_dir):
    """Returns (results, results of the only stage)."""
    results = json.loads((output_dir / "results.json").read_text())
    [stage] = results["stages"]
    return results, stage


def test_every_network_is_validated_stored_and_reported(finished):
    _, stage = read_stage(finished)
    networks = {"student", "teacher", "second"}
    assert set(stage["validation"]) == networks
    for network in networks:
        assert {"test_at_best", "test_last"} <= set(stage[network])
    files = {path.name for path in finished.glob("coteaching/*_best.keras")}
    assert files == {f"{network}_best.keras" for network in networks}


def test_better_student_by_validation_is_exported(finished):
    results, stage = read_stage(finished)
    accuracies = {name: stage[name]["best_validation"] for name in ("student", "second")}
    exported = results["exported"].removeprefix("coteaching ")
    assert accuracies[exported] == max(accuracies.values())
    assert results["best"] == stage[exported]


def test_table_has_a_row_for_each_network(finished, capsys):
    assert train.main(["train", *TINY, KEEP, f"--output_dir={finished}"]) == 0
    output = capsys.readouterr().out
    for row in ("coteaching ", "coteaching, EMA ", "coteaching, second "):
        assert row in output


def test_resume_after_interrupt_gives_identical_weights(finished, tmp_path, monkeypatch):
    def stop(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            raise KeyboardInterrupt

    flags = ["train", *TINY, KEEP, f"--output_dir={tmp_path / 'resumed'}"]
    with monkeypatch.context() as patched:
        patched.setattr(callbacks.EpochLog, "on_train_batch_end", stop)
        assert train.main(flags) == 130
    assert train.main(flags) == 0
    assert kill.contents(tmp_path / "resumed") == kill.contents(finished)


def test_other_method_args_are_another_run(finished, capsys):
    flags = [*TINY, "--method_args=keep=0.9", f"--output_dir={finished}"]
    assert train.main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert "--method_args=keep=0.5 there, --method_args=keep=0.9 here" in error
