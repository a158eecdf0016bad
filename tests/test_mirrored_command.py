"""MirroredStrategy by the command, over logical CPU devices in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from mlnt_tf.experiment import record
from mlnt_tf.models import layers  # noqa: F401, registers the layers of the stored networks

ROOT = pathlib.Path(__file__).parents[1]
TINY = ("--train_examples=256", "--batch_size=32", "--width=4", "--num_synthetic=2",
        "--iterations=1", "--epochs=1", "--steps_per_epoch=3", "--pretrain_epochs=1",
        "--precision=float32", "--sync_batch_norm")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """{name: (output directory, log)} of the same run on one device and on two replicas."""
    place = tmp_path_factory.mktemp("mirrored")
    runs = {"single": (), "mirrored": ("--logical_devices=2",)}
    outputs = {}
    for name, flags in runs.items():
        done = subprocess.run(
            [sys.executable, "-m", "mlnt_tf.train", *TINY, *flags, f"--output_dir={place / name}"],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs[name] = place / name, done.stderr
    return outputs


def test_logical_devices_train_under_mirrored_strategy(finished):
    directory, log = finished["mirrored"]
    assert "strategy mirrored; 2 replicas" in log
    assert "--strategy=mirrored" in (directory / record.FLAGS_FILE).read_text().splitlines()


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_two_replicas_end_with_the_weights_of_one_device(finished, network):
    path = f"iteration_1/{network}_best.keras"
    single, mirrored = (keras.models.load_model(finished[name][0] / path, compile=False)
                        for name in ("single", "mirrored"))
    for one, two in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)


def test_two_replicas_report_the_same_accuracies(finished):
    single, mirrored = (json.loads((finished[name][0] / record.RESULTS_FILE).read_text())
                        for name in ("single", "mirrored"))
    kept = single["exported_filter"]["kept"]
    assert mirrored["exported_filter"]["kept"] == pytest.approx(kept, abs=2)
    assert mirrored["test_accuracy"] == pytest.approx(single["test_accuracy"], abs=0.01)
