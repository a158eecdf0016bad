"""Every built-in method, run by the command: two tiny epochs, and a resume that changes nothing."""

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

pytestmark = pytest.mark.slow
TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--epochs=2", "--steps_per_epoch=3",
        "--precision=float32", "--iterations=2", "--tau=0.05", "--num_clean_labels=20",
        "--joint_start_epoch=1"]
STAGES = {
    "mean_teacher": ["iteration 1", "iteration 2"],
    "cross_entropy": ["cross entropy"],
    "cross_entropy_ema": ["cross entropy"],
    "cross_entropy_iterative": ["iteration 1", "iteration 2"],
    "forward": ["cross entropy", "first forward fit", "forward"],
    "joint_optimization": ["joint optimization", "joint retraining"],
    "cnn_crf": ["cnn crf"],
    "elr": ["elr"],
    "gce": ["gce"]}
# test_checkpoints.py interrupts cross entropy, and kill.py the iterations.
INTERRUPTED = ("mean_teacher", "forward", "joint_optimization", "cnn_crf", "elr", "gce")
FLAGS = {"forward": ["--transition_matrix=estimated"], "cnn_crf": ["--crf_form=exact"],
         "mean_teacher": ["--label_repair=votes", "--mixup=4", "--classification_loss=elr",
                          "--min_per_class=3"],
         "cross_entropy_iterative": ["--label_repair=posterior", "--mixup=0.5",
                                     "--classification_loss=gce", "--min_per_class=3"]}
ROOT = pathlib.Path(__file__).parents[1]


def run(method, output_dir, *flags):
    return train.main(["train", *TINY, f"--method={method}", f"--output_dir={output_dir}",
                       *FLAGS.get(method, []), *flags])


def read_results(output_dir):
    return json.loads((output_dir / "results.json").read_text())


def test_this_file_covers_every_method_that_trains():
    assert {"mlnt", *STAGES} == set(config.TRAINED_METHODS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function of a method that returns the directory of its finished run.

    The methods in INTERRUPTED were stopped in the second epoch of their last stage, and resumed.
    """
    directories = {}

    def directory_of(method):
        if method in directories:
            return directories[method]
        output_dir = tmp_path_factory.mktemp("methods") / method
        last_stage = STAGES[method][-1]

        def stop(self, batch, logs=None):
            if self.name == last_stage and self.epoch == 1 and batch == 1:
                raise KeyboardInterrupt

        if method in INTERRUPTED:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(callbacks.EpochLog, "on_train_batch_end", stop)
                assert run(method, output_dir, "--checkpoint_every=1") == 130
        assert run(method, output_dir, "--checkpoint_every=1") == 0
        directories[method] = output_dir
        return output_dir

    return directory_of


@pytest.mark.parametrize("method", STAGES)
def test_results_list_the_stages_and_the_exported_network(method, finished):
    results = read_results(finished(method))
    assert [stage["name"] for stage in results["stages"]] == STAGES[method]
    stage, _, network = results["exported"].rpartition(" ")
    if method in ("mean_teacher", "cross_entropy_iterative"):
        assert stage in STAGES[method] and network in ("student", "teacher")
    else:
        assert stage == STAGES[method][-1]
        assert network == ("teacher" if method == "cross_entropy_ema" else "student")
    assert len(results["curve"]["validation"]) == 2
    assert results["best_accuracy"] == results["test_accuracy"]
    for stage in results["stages"]:
        for network in ("student", "teacher"):
            assert {"best_validation", "test_at_best", "test_last"} <= set(stage[network])


@pytest.mark.parametrize("method", INTERRUPTED)
def test_resume_after_interrupt_gives_identical_weights(method, finished, tmp_path):
    assert run(method, tmp_path / "uninterrupted") == 0
    assert kill.contents(finished(method)) == kill.contents(tmp_path / "uninterrupted")


@pytest.mark.parametrize("method", ["mean_teacher", "cross_entropy_iterative"])
def test_repaired_labels_are_stored_per_example_and_counted(method, finished):
    iteration = read_results(finished(method))["iterations"][1]
    table = np.load(finished(method) / "iteration_2/labels.npz")
    assert iteration["kept"] == table["selected"].sum()
    assert iteration["kept"] + iteration["dropped"] == len(table["id"]) == 200
    changed = table["selected"] & (table["label"] != table["given_label"])
    assert iteration["changed"] == changed.sum()
    counts = np.bincount(table["label"], minlength=10)
    kept = np.bincount(table["label"][table["selected"]], minlength=10)
    assert (kept >= np.minimum(counts, 3)).all()


def test_estimated_matrix_is_stored_plotted_and_compared_with_the_true_one(finished):
    output_dir = finished("forward")
    matrix = np.load(output_dir / "transition.npy")
    report = read_results(output_dir)["transition"]
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    difference = matrix - (.5 * np.eye(10) + .05)
    assert report["source"] == "estimated"
    assert report["mean_absolute_difference"] == pytest.approx(np.abs(difference).mean())
    assert report["frobenius_difference"] == pytest.approx(np.sqrt((difference**2).sum()))
    assert (output_dir / "transition.png").read_bytes().startswith(b"\x89PNG")
    assert list((output_dir / "transition").iterdir())


def test_joint_optimization_reports_label_accuracy_of_each_epoch(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output_dir = finished("joint_optimization")
    results = read_results(output_dir)
    curve = results["stages"][0]["label_accuracy"]
    assert len(curve) == round(2 * 5 / 3)
    assert results["recovered_label_accuracy"] == curve[-1]
    events = EventAccumulator(str(output_dir / "joint_optimization/train"))
    events.Reload()
    steps = [event.step for event in events.Tensors("epoch_label_accuracy")]
    assert steps == list(range(len(curve)))


def test_joint_optimization_stores_soft_labels_and_deletes_predictions(finished):
    directory = finished("joint_optimization") / "joint_optimization"
    labels = np.load(directory / "soft_labels.npy")
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert not (directory / "predictions").exists()


def test_cnn_crf_reports_the_clean_labels_it_used(finished):
    report = read_results(finished("cnn_crf"))["clean_labels"]
    assert report == {"asked": 20, "used": 20, "by_class": [2] * 10}


@pytest.mark.parametrize("flag", [
    "--method=dividemix", "--gce_q=0", "--gce_q=1.1", "--elr_beta=1", "--elr_lambda=-1",
    "--joint_alpha=-1", "--joint_beta=-1", "--joint_labels=medium", "--joint_epochs=-1",
    "--joint_start_epoch=-1", "--joint_rate=-1", "--crf_form=approximate",
    "--num_clean_labels=-1", "--transition_matrix=nowhere.csv"])
def test_invalid_flag_of_a_method_is_refused_in_one_line(tmp_path, capsys, flag):
    assert train.main(["train", flag, f"--output_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert flag.partition("=")[0] in error
    assert error.count("\n") == 1


def test_example_method_of_the_page_trains(tmp_path, monkeypatch):
    text = (ROOT / "mlnt_tf/methods/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if "def train(run" in block)
    (tmp_path / "readme_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method = "readme_method:train"
    assert run(method, tmp_path / "run", "--method_args=smoothing=0.1") == 0
    results = read_results(tmp_path / "run")
    assert results["method"] == method
    assert results["exported"] == "label smoothing student"


def test_two_replicas_share_one_table_of_examples():
    """Runs in a process of its own, because TensorFlow creates its devices only once."""
    code = """
import numpy as np, tensorflow as tf, tiny
from mlnt_tf.methods.elr import ELR

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
trained = []
for strategy in tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]):
    with strategy.scope():
        model = ELR(tiny.dense(), num_examples=96)
        model.compile(learning_rate=.2)
    model.fit(tiny.positioned(6, size=16), epochs=2, steps_per_epoch=3, verbose=0)
    trained.append([variable.numpy() for variable in (model.averages, *model.student.variables)])
single, mirrored = trained
assert (single[0].sum(axis=1) > .2).all()
for expected, actual in zip(single, mirrored):
    np.testing.assert_allclose(actual, expected, atol=1e-6)
"""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert process.returncode == 0, process.stderr
