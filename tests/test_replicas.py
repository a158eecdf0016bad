"""Several replicas train like one device on the same global batch.

Each strategy runs in its own process, see replicas.py.
"""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import Config, UserError
from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Split
from mlnt_tf.hardware import devices, planning
from mlnt_tf.meta import objective, replicated, synthetic

import replicas
import tiny

pytestmark = pytest.mark.slow
# Cases on two devices of a process.
MIRRORED = ("first_sync", "full", "several_steps", "expected", "mean_teacher", "joint")
WORKERS = ("first", "joint")  # Cases on two workers.
STEPS = 4
CLUSTER = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": %s}}'
PARAMETER_SERVER = ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, '
                    '"task": {"type": "worker", "index": 0}}')


def start(out, cases, *flags, **environment):
    """Starts a process that trains the cases and writes the file `out`."""
    command = [sys.executable, replicas.__file__, out, "--keras", *flags]
    command += [f"--case={case}" for case in cases]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE,
                            text=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Arrays by process: "mirrored" has two CPU devices, "worker0" and "worker1" have one each."""
    directory = tmp_path_factory.mktemp("replicas")
    addresses = [f"127.0.0.1:{port}" for port in tiny.free_ports(2)]
    processes = {"mirrored": start(directory / "mirrored.npz", (*MIRRORED, "each_its_own"),
                                   "--replicas=2")}
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes[f"worker{index}"] = start(directory / f"worker{index}.npz", WORKERS,
                                            TF_CONFIG=json.dumps(cluster))
    for process in processes.values():
        _, error = process.communicate()
        assert process.returncode == 0, error[-3000:]
    return {name: np.load(directory / f"{name}.npz") for name in processes}


def assert_trains_like_one_device(arrays, case):
    expected = replicas.train(tf.distribute.get_strategy(), steps=STEPS, **replicas.CASES[case])
    for name, value in expected.items():
        np.testing.assert_allclose(arrays[f"{case}/{name}"], value, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("case", MIRRORED)
def test_two_replicas_train_like_one_device(results, case):
    assert_trains_like_one_device(results["mirrored"], case)


@pytest.mark.parametrize("case", WORKERS)
def test_two_workers_train_like_one_device(results, case):
    assert_trains_like_one_device(results["worker0"], case)


def test_two_workers_have_the_same_weights(results):
    names = [name for name in results["worker0"].files if "student" in name or "teacher" in name]
    assert names
    for name in names:
        np.testing.assert_array_equal(results["worker0"][name], results["worker1"][name])


@pytest.mark.parametrize("case, copies_of_weights", [
    ("each_its_own", 2), ("several_steps", 2 + 3), ("full", 2 + 2 * 3)])
def test_bytes_all_reduced_per_step(results, case, copies_of_weights):
    """Both updates and each of the M = 3 inner gradients all-reduce a copy of the weights.

    Full order all-reduces another copy for each m.
    """
    num_weights = 4 * 5 + 5 + 5 * 3 + 3
    num_scalars = 2
    expected = 4 * (copies_of_weights * num_weights + num_scalars)
    assert results["mirrored"][f"{case}/bytes/step"] == expected


def test_inner_step_per_replica_differs_from_one_device(results):
    expected = replicas.train(tf.distribute.get_strategy(), steps=STEPS)
    differences = [abs(results["mirrored"][f"each_its_own/{name}"] - value).max()
                   for name, value in expected.items() if name.startswith("student")]
    assert 1e-5 < max(differences) < 1e-1


@pytest.mark.parametrize("ability, process", [
    ("build", "mirrored"), ("build", "worker0"), ("logs", "worker0"),
    ("several_steps", "mirrored")])
def test_keras_still_needs_the_workaround(results, ability, process):
    """If this fails, Keras works: remove that part of mlnt_tf/training/keras_internals.py."""
    assert not results[process][f"keras/{ability}"]


def linear_problem(order="first", image_gradient=False):
    """Arguments of `meta_gradient` for a linear network, 4 features, 3 classes and M = 3."""
    rng = np.random.default_rng(0)
    theta = [tf.constant(rng.normal(size=[4, 3]), tf.float32),
             tf.constant(rng.normal(size=[3]), tf.float32)]
    images = tf.constant(rng.normal(size=[6, 4]), tf.float32)
    targets = tf.nn.softmax(tf.constant(rng.normal(size=[6, 3]), tf.float32))
    label_sets = tf.constant(rng.integers(3, size=[3, 6]), tf.int32)

    def forward(weights, x):
        return tf.math.softplus(x) @ weights[0] + weights[1]

    return dict(forward=forward, theta=theta, images=images, targets=targets,
                synthetic_labels=lambda m: label_sets[m], num_synthetic=3, inner_rate=.5,
                order=order, image_gradient=image_gradient, reduce=lambda gradients: gradients)


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("image_gradient", [False, True])
def test_replicated_meta_gradient_equals_that_of_one_device(order, image_gradient):
    problem = linear_problem(order, image_gradient)
    expected, expected_loss = tf.function(lambda: objective.meta_gradient(**problem))()
    gradients, loss = tf.function(lambda: replicated.meta_gradient(**problem))()
    assert len(gradients) == len(expected) == 2 + image_gradient
    for gradient, expected_gradient in zip(gradients, expected):
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert float(loss) == pytest.approx(float(expected_loss), abs=1e-6)


def test_unrolled_meta_gradient_equals_that_of_the_loop():
    problem = linear_problem("full")
    expected, _ = objective.meta_gradient(**problem, parallelism=1)
    unrolled, _ = objective.meta_gradient(**problem, unrolled=True)
    for gradient, expected_gradient in zip(unrolled, expected):
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_synthetic_labels_are_drawn_over_the_global_batch():
    batch = tiny.batch(12)
    draw = dict(seed=5, step=3, m=1)
    expected = synthetic.transfer_labels(batch["label"], batch["neighbor_labels"], 6, **draw)
    parts = []
    for replica in range(3):
        rows = slice(4 * replica, 4 * replica + 4)
        parts.append(synthetic.transfer_labels(
            batch["label"][rows], batch["neighbor_labels"][rows], 6, **draw, replica=replica,
            replicas=3))
    np.testing.assert_array_equal(tf.concat(parts, axis=0), expected)


def test_evaluation_batches_are_padded_to_a_multiple():
    ids = np.arange(20)
    images = np.random.default_rng(0).integers(256, size=[20, 4, 4, 1], dtype=np.uint8)
    split = Split(ids, np.zeros(20, np.int32), ArrayImages(images), ids.astype(str))
    normalizer = transforms.Normalizer(np.zeros([4, 4, 1], np.float32))
    preprocess = transforms.Preprocess((4, 4, 1), (4, 4, 1), normalizer)
    batches = list(pipeline.evaluation_batches(split, preprocess, batch_size=8,
                                               multiple=8).as_numpy_iterator())
    assert [len(batch["label"]) for batch in batches] == [8, 8, 8]
    padded_ids = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(padded_ids, [*ids, -1, -1, -1, -1])
    assert (batches[-1]["label"][4:] == -1).all() and (batches[-1]["image"][4:] == 0).all()


def test_padding_does_not_count_in_validation():
    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.compile(learning_rate=.1)

    def measures(batch):
        model.reset_metrics()
        return [float(value) for value in model.test_step(batch).values()]

    image, label = tiny.batch(8)["image"], tiny.batch(8)["label"]
    padded_label = tf.concat([label[:5], [-1, -1, -1]], axis=0)
    expected = measures({"image": image[:5], "label": label[:5]})
    assert measures({"image": image, "label": padded_label}) == pytest.approx(expected)


@pytest.mark.parametrize("settings, count, message", [
    (dict(batch_size=130), 4, "128 or 132"),
    (dict(batch_size=3, num_neighbors=1), 4, "cannot be shared evenly by 4 replicas. Use 4"),
    (dict(meta_every=2), 2, "--meta_every=2"),
    (dict(sync_batch_norm=True, jit_compile="true"), 2, "--jit_compile=true")])
def test_settings_that_replicas_cannot_use_are_refused(settings, count, message):
    config = Config(**settings)
    with pytest.raises(UserError, match=message):
        planning.plan_devices(dataclasses.replace(config, logical_devices=count))
    planning.plan_devices(config)


@pytest.mark.parametrize("text", ["nonsense", "{}", CLUSTER % 2, PARAMETER_SERVER])
def test_malformed_tf_config_is_refused(text):
    with pytest.raises(UserError, match="TF_CONFIG"):
        planning.read_cluster(text)


def test_tf_config_of_two_workers_is_read():
    assert planning.read_cluster(CLUSTER % 1) == (["a:1", "b:1"], 1)


@pytest.mark.parametrize("text", ["", CLUSTER.replace(', "b:1"', "") % 0])
def test_tf_config_of_one_worker_means_no_cluster(text):
    assert planning.read_cluster(text) is None


@pytest.mark.parametrize("settings, message", [
    (dict(strategy="multi_worker"), "needs TF_CONFIG"),
    (dict(num_devices=3), "--num_devices=3 is above the 1")])
def test_missing_devices_are_refused(settings, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=message):
        planning.plan_devices(Config(**settings))


@pytest.mark.parametrize("error, expected", [
    (tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:1 stopped sending"),
     "worker 1"),
    (tf.errors.AbortedError(None, None, "collective aborted"), "a worker"),
    (tf.errors.InvalidArgumentError(None, None, "shapes"), None),
    (ValueError("task:1"), None)])
def test_lost_worker_is_read_from_the_error(error, expected):
    two_workers = devices.Devices(tf.distribute.get_strategy(), worker=0, workers=2)
    assert devices.lost_worker(error, two_workers) == expected
    assert devices.lost_worker(error, devices.Devices(tf.distribute.get_strategy())) is None
