"""Label smoothing, class balance, early stopping and the warning about a falling accuracy."""

import json

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses, train
from mlnt_tf.config import Config
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.stage import Stage
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.gce import GCE
from mlnt_tf.training import callbacks, checkpoints
from mlnt_tf.training.compile import compile_model

import kill
import tiny


def history(*accuracies, **others):
    """Returns the logs of epochs with these accuracies of the student, and those of others."""
    columns = {"val_accuracy": accuracies,
               **{f"val_{name}_accuracy": values for name, values in others.items()}}
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def attached(callback, networks=("student",)):
    """Attaches a callback to a stand-in for a model."""
    model = type("Model", (), {"networks": dict.fromkeys(networks), "stop_training": False})()
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def run_epochs(callback, logs):
    """Returns the number of epochs until the callback stops the training."""
    for epoch, values in enumerate(logs):
        callback.on_epoch_end(epoch, values)
        if callback.model.stop_training:
            return epoch + 1
    return None


class TestLabelSmoothing:
    def test_loss_equals_cross_entropy_with_smoothed_labels(self):
        logits = tf.constant([[1.0, -0.5, 0.2], [0.0, 2.0, -1.0]])
        smoothed = 0.7 * np.eye(3)[[0, 2]] + 0.3 / 3
        expected = -(smoothed * np.asarray(tf.nn.log_softmax(logits))).sum(axis=1)
        loss = losses.smooth_labels(losses.cross_entropy([0, 2], logits), logits, 0.3)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)

    def test_batch_with_smoothed_probabilities_has_the_same_gradients(self):
        batch = tiny.batch()
        soft = 0.8 * np.eye(3, dtype=np.float32)[batch["label"]] + np.float32(0.2 / 3)
        gradients = []
        for smoothing, columns in ((0.2, {}), (0.0, {"probabilities": tf.constant(soft)})):
            model = mlnt_tf.CrossEntropy(tiny.dense())
            model.compile(learning_rate=.1, label_smoothing=smoothing)
            gradients.append(model.classification_gradients({**batch, **columns})[0])
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_it_changes_the_cross_entropy_term_of_elr_and_not_the_meta_loss(self):
        batch = {**tiny.batch(), "position": tf.range(8)}
        for new_model in (lambda: ELR(tiny.dense(), num_examples=8),
                          lambda: mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)):
            models = []
            for smoothing in (0.0, 0.3):
                models.append(new_model())
                models[-1].compile(learning_rate=.1, label_smoothing=smoothing)
            losses_of = [float(model.classification_gradients(batch)[2]) for model in models]
            assert abs(losses_of[0] - losses_of[1]) > 1e-3
            if isinstance(models[0], mlnt_tf.MLNT):
                plain, smoothed = [model.meta_gradients(batch)[1] for model in models]
                assert float(plain) == float(smoothed)

    def test_loss_without_cross_entropy_refuses_it(self):
        with pytest.raises(ValueError, match="GCE cannot smooth labels"):
            GCE(tiny.dense()).compile(learning_rate=.1, label_smoothing=.1)


class TestClassBalance:
    def test_every_class_has_the_same_total_weight(self):
        labels = np.int32([0, 0, 0, 1, 2, 2])
        weights = Targets(labels).balanced().weights
        np.testing.assert_allclose(weights, [2 / 3] * 3 + [2, 1, 1], rtol=1e-6)
        assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)

    def test_only_selected_examples_count_and_weights_are_multiplied(self):
        labels = np.int32([0, 0, 0, 2, 2])
        selected = np.array([True, False, False, True, True])
        balanced = Targets(labels, selected=selected, weights=np.float32([1, 1, 1, 2, 1]))
        np.testing.assert_allclose(balanced.balanced().weights, [1.5, 1.5, 1.5, 1.5, .75])


class TestEarlyStopping:
    def test_stops_when_no_network_has_improved(self):
        callback = attached(callbacks.EarlyStopping(2, "stage"), ("student", "teacher"))
        logs = history(.5, .6, .6, .6, .6, teacher=(.1, .2, .3, .3, .2))
        assert run_epochs(callback, logs) == 5

    def test_an_improvement_restarts_the_count(self):
        callback = attached(callbacks.EarlyStopping(2, "stage"))
        assert run_epochs(callback, history(.5, .4, .6, .5, .6, .9)) == 5

    def test_resumed_training_stops_at_the_same_epoch(self):
        logs = history(.5, .6, .6, .5, .4)
        for done in range(4):
            position = checkpoints.Position(epoch=done, history=tuple(logs[:done]))
            callback = attached(callbacks.EarlyStopping(2, "stage", position))
            assert not callback.has_ended(["student"])
            assert run_epochs(callback, logs[done:]) == 4 - done
        position = checkpoints.Position(epoch=4, history=tuple(logs[:4]))
        assert callbacks.EarlyStopping(2, "stage", position).has_ended(["student"])


class TestDecline:
    @pytest.fixture
    def warnings(self, monkeypatch):
        warnings = []
        monkeypatch.setattr(callbacks.logging, "warning",
                            lambda text, *args: warnings.append(text % args))
        return warnings

    def test_accuracy_below_half_its_best_warns_once(self, warnings):
        callback = attached(callbacks.WarnOfDecline("iteration 1"), ("student", "teacher"))
        run_epochs(callback, history(.5, .8, .4, .39, .3, teacher=(.1, .2, .3, .3, .3)))
        [warning] = warnings
        assert "iteration 1: the validation accuracy of the student" in warning
        assert "39.0 %" in warning and "80.0 %" in warning and "learning rate" in warning

    def test_resumed_training_does_not_warn_again(self, warnings):
        logs = history(.8, .3, .2)
        position = checkpoints.Position(epoch=2, history=tuple(logs[:2]))
        run_epochs(attached(callbacks.WarnOfDecline("stage", position)), logs[2:])
        assert not warnings


def test_compile_model_builds_the_optimizer_of_the_flags():
    model = mlnt_tf.CrossEntropy(tiny.dense())
    config = Config(optimizer="adamw", weight_decay=.01, label_smoothing=.2)
    compile_model(model, config, learning_rate=.1)
    assert type(model.optimizer).__name__ == "AdamW" and model.optimizer.weight_decay == .01
    assert model.label_smoothing == .2
    compile_model(model, Config(nesterov=True, head_learning_rate=.4), learning_rate=.2)
    assert model.optimizer.nesterov and model.optimizer.head_factor == 2


OPTIONS = ["--optimizer=adamw", "--learning_rate=0.01", "--head_learning_rate=0.02",
           "--lr_schedule=cosine", "--warmup_epochs=1", "--label_smoothing=0.1",
           "--class_balance=weights", "--early_stopping=1"]
TINY = ["--method=cross_entropy", "--train_examples=200", "--batch_size=32", "--width=2",
        "--epochs=8", "--steps_per_epoch=2", "--precision=float32", "--checkpoint_every=1",
        *OPTIONS]


def command(output_dir):
    return train.main(["train", *TINY, f"--output_dir={output_dir}"])


@pytest.mark.slow
def test_run_with_all_options_resumes_to_identical_weights(tmp_path, monkeypatch):
    assert command(tmp_path / "finished") == 0
    [stage] = json.loads((tmp_path / "finished/results.json").read_text())["stages"]
    epochs = stage["epochs_trained"]
    assert epochs < 8 and len(stage["validation"]["student"]) == epochs

    def stop_in_epoch_1(self, batch, logs=None):
        if self.epoch == 1 and batch == 0:
            raise KeyboardInterrupt

    def stop_before_the_result(self, result):
        raise KeyboardInterrupt

    for owner, name, interrupt in ((callbacks.EpochLog, "on_train_batch_end", stop_in_epoch_1),
                                   (Stage, "finish", stop_before_the_result)):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, interrupt)
            assert command(tmp_path / "resumed") == 130
    assert command(tmp_path / "resumed") == 0
    assert kill.contents(tmp_path / "resumed") == kill.contents(tmp_path / "finished")
