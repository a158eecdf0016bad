"""Every method of the table by the command: two tiny epochs, a resume that changes nothing, a method of one's own."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mlnt_tf import config, train
from mlnt_tf.training import callbacks

import kill

TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--epochs=2", "--steps_per_epoch=3",
        "--precision=float32", "--iterations=2", "--tau=0.05", "--num_clean_labels=20", "--joint_start_epoch=1"]
STAGES = {
    "cross_entropy": ["cross entropy"], "cross_entropy_ema": ["cross entropy"],
    "cross_entropy_iterative": ["iteration 1", "iteration 2"], "forward": ["cross entropy", "forward"],
    "joint_optimization": ["joint optimization", "joint retraining"], "cnn_crf": ["cnn crf"], "elr": ["elr"],
    "gce": ["gce"]}
# Cross entropy is interrupted in test_checkpoints.py and the iterations in kill.py.
INTERRUPTED = ("forward", "joint_optimization", "cnn_crf", "elr", "gce")
FLAGS = {"forward": ["--transition_matrix=estimated"], "cnn_crf": ["--crf_form=exact"]}


def run(method, place, *flags):
    return train.main(["train", *TINY, f"--method={method}", f"--output_dir={place}", *FLAGS.get(method, []), *flags])


def results(place):
    return json.loads((place / "results.json").read_text())


def test_every_method_is_tested():
    assert {"mlnt", *STAGES} == set(config.METHODS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function of a method: where it ran; those INTERRUPTED stopped in the second epoch of their last stage, and went
    on."""
    places = {}

    def place_of(method):
        if method not in places:
            place, last = tmp_path_factory.mktemp("methods") / method, STAGES[method][-1]

            def stop(self, batch, logs=None):
                if self.name == last and self.epoch == 1 and batch == 1:
                    raise KeyboardInterrupt

            if method in INTERRUPTED:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(callbacks.EpochLog, "on_train_batch_end", stop)
                    assert run(method, place, "--checkpoint_every=1") == 130
            assert run(method, place, "--checkpoint_every=1") == 0
            places[method] = place
        return places[method]

    return place_of


@pytest.mark.parametrize("method", STAGES)
def test_a_method_trains_and_says_so(method, finished):
    found = results(finished(method))
    assert [stage["name"] for stage in found["stages"]] == STAGES[method]
    role = "teacher" if method == "cross_entropy_ema" else found["exported"].split()[-1]
    if method != "cross_entropy_iterative":
        assert found["exported"] == f"{STAGES[method][-1]} {role}"
        assert role == ("teacher" if method == "cross_entropy_ema" else "student")
    assert len(found["curve"]["validation"]) == 2 and found["best_accuracy"] == found["test_accuracy"]
    for stage in found["stages"]:
        assert {"best_validation", "test_at_best", "test_last"} <= set(stage["student"]) & set(stage["teacher"])


@pytest.mark.parametrize("method", INTERRUPTED)
def test_an_interrupted_method_ends_with_the_weights_of_one_that_was_not(method, finished, tmp_path):
    assert run(method, tmp_path / "whole") == 0
    assert kill.contents(finished(method)) == kill.contents(tmp_path / "whole")


def test_the_estimated_matrix_is_stored_drawn_and_measured_against_the_true_one(finished):
    place = finished("forward")
    matrix, told = np.load(place / "transition.npy"), results(place)["transition"]
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    true = .5 * np.eye(10) + .05
    assert told["source"] == "estimated"
    assert told["mean_absolute_difference"] == pytest.approx(np.abs(matrix - true).mean())
    assert told["frobenius_difference"] == pytest.approx(np.sqrt(((matrix - true)**2).sum()))
    assert (place / "transition.png").read_bytes().startswith(b"\x89PNG") and list((place / "transition").iterdir())


def test_recovered_labels_are_counted_epoch_by_epoch(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = finished("joint_optimization")
    found = results(place)
    curve = found["stages"][0]["label_accuracy"]
    assert len(curve) == round(2 * 5 / 3) and found["recovered_label_accuracy"] == curve[-1]
    events = EventAccumulator(str(place / "joint_optimization/train"))
    events.Reload()
    assert [event.step for event in events.Tensors("epoch_label_accuracy")] == list(range(len(curve)))
    labels = np.load(place / "joint_optimization/soft_labels.npy")
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert not (place / "joint_optimization/predictions").exists()


def test_clean_labels_are_recorded(finished):
    assert results(finished("cnn_crf"))["clean_labels"] == {"asked": 20, "used": 20, "by_class": [2] * 10}


@pytest.mark.parametrize("flag", [
    "--method=dividemix", "--gce_q=0", "--gce_q=1.1", "--elr_beta=1", "--elr_lambda=-1", "--joint_alpha=-1",
    "--joint_beta=-1", "--joint_labels=medium", "--joint_epochs=-1", "--joint_start_epoch=-1", "--joint_rate=-1", "--crf_form=approximate",
    "--num_clean_labels=-1", "--transition_matrix=nowhere.csv"])
def test_a_mistake_in_a_flag_of_a_method_costs_one_line(tmp_path, capsys, flag):
    assert train.main(["train", flag, f"--output_dir={tmp_path / 'run'}"]) == 2
    told = capsys.readouterr().err
    assert flag.partition("=")[0] in told and told.count("\n") == 1


def test_the_method_of_the_readme_trains_from_a_file_of_its_own(tmp_path, monkeypatch):
    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def train(run" in block)
    (tmp_path / "mine_of_the_readme.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method = "mine_of_the_readme:train"
    assert run(method, tmp_path / "run", "--method_args=smoothing=0.1") == 0
    found = results(tmp_path / "run")
    assert (found["method"], found["exported"]) == (method, "label smoothing student")


def test_two_replicas_keep_one_table_of_examples():
    """In a process of its own, as devices are made before TensorFlow looks at them."""
    code = """
import numpy as np, tensorflow as tf, tiny
from mlnt_tf.methods.elr import ELR

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
found = []
for strategy in tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]):
    with strategy.scope():
        model = ELR(tiny.dense(), num_examples=96)
        model.compile(learning_rate=.2)
    model.fit(tiny.positioned(6, size=16), epochs=2, steps_per_epoch=3, verbose=0)
    found.append([variable.numpy() for variable in (model.averages, *model.student.variables)])
assert (found[0][0].sum(axis=1) > .2).all()
for mine, theirs in zip(*found):
    np.testing.assert_allclose(mine, theirs, atol=1e-6)
"""
    here = pathlib.Path(__file__).parent
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={
        **os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert told.returncode == 0, told.stderr
