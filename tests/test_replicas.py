"""N replicas give what one device gives on the same global batch; each strategy in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.config import Config, UserError
from mlnt_tf.data import pipeline
from mlnt_tf.hardware import devices, planning
from mlnt_tf.meta import objective, replicated, synthetic

import replicas
import tiny

MIRRORED, WORKERS, STEPS = ("first_sync", "full", "several_steps", "joint"), ("first",), 4
CLUSTER = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": %s}}'


def run(out, *cases, **environment):
    command = [sys.executable, replicas.__file__, out, "--keras", *(f"--case={case}" for case in cases)]
    command += [] if "TF_CONFIG" in environment else ["--replicas=2"]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{name: arrays} of one process with two CPU devices, and of two processes on loopback; all at once."""
    place = tmp_path_factory.mktemp("replicas")
    addresses = [f"127.0.0.1:{port}" for port in tiny.free_ports(2)]
    processes = {"mirrored": run(place / "mirrored.npz", *MIRRORED, "each_its_own"), **{
        f"worker{index}": run(place / f"worker{index}.npz", *WORKERS, TF_CONFIG=json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})) for index in range(2)}}
    for name, process in processes.items():
        told = process.communicate()[1]
        assert process.returncode == 0, told[-3000:]
    return {name: np.load(place / f"{name}.npz") for name in processes}


def same_as_one_device(several, case):
    expected = replicas.train(tf.distribute.get_strategy(), steps=STEPS, **replicas.CASES[case])
    for name, value in expected.items():
        np.testing.assert_allclose(several[f"{case}/{name}"], value, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("case", MIRRORED)
def test_two_replicas_take_the_steps_of_one_device(found, case):
    same_as_one_device(found["mirrored"], case)


@pytest.mark.parametrize("case", WORKERS)
def test_two_processes_take_the_steps_of_one_device(found, case):
    same_as_one_device(found["worker0"], case)


def test_two_processes_hold_the_same_weights(found):
    for name in found["worker0"].files:
        if "student" in name or "teacher" in name:
            np.testing.assert_array_equal(found["worker0"][name], found["worker1"][name])


@pytest.mark.parametrize("case, times_the_weights", [("each_its_own", 2), ("several_steps", 2 + 3), ("full", 2 + 2 * 3)])
def test_bytes_all_reduced_in_a_step(found, case, times_the_weights):
    """P weights for each of both updates, for each of M inner gradients, and once more for each in full order."""
    weights, scalars = 4 * 5 + 5 + 5 * 3 + 3, 2
    assert found["mirrored"][f"{case}/bytes/step"] == 4 * (times_the_weights * weights + scalars)


def test_replicas_that_take_their_own_inner_step_part_from_one_device(found):
    expected = replicas.train(tf.distribute.get_strategy(), steps=STEPS)
    parted = max(abs(found["mirrored"][f"each_its_own/{name}"] - value).max() for name, value in expected.items()
                 if name.startswith("student"))
    assert 1e-5 < parted < 1e-1


@pytest.mark.parametrize("what, where", [("build", "mirrored"), ("build", "worker0"), ("logs", "worker0"),
                                         ("several_steps", "mirrored")])
def test_keras_cannot_do_it_yet(found, what, where):
    """Where this fails Keras has learnt it: remove its part of mlnt_tf/training/keras_internals.py."""
    assert not found[where][f"keras/{what}"]


def setting(order="first", image_gradient=False):
    """A linear network of 4 inputs and 3 classes at fixed weights, and labels of M = 3 sets."""
    draws = np.random.default_rng(0)
    theta = [tf.constant(draws.normal(size=[4, 3]), tf.float32), tf.constant(draws.normal(size=[3]), tf.float32)]
    images = tf.constant(draws.normal(size=[6, 4]), tf.float32)
    targets = tf.nn.softmax(tf.constant(draws.normal(size=[6, 3]), tf.float32))
    sets = tf.constant(draws.integers(3, size=[3, 6]), tf.int32)
    return (lambda weights, x: tf.math.softplus(x) @ weights[0] + weights[1], theta, images, targets,
            lambda m: sets[m]), dict(num_synthetic=3, inner_rate=.5, order=order, image_gradient=image_gradient,
                                     reduce=lambda gradients: gradients)


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("image_gradient", [False, True])
def test_two_loops_give_the_gradient_of_one(order, image_gradient):
    arguments, options = setting(order, image_gradient)
    expected, loss = tf.function(lambda: objective.meta_gradient(*arguments, **options))()
    found, same_loss = tf.function(lambda: replicated.meta_gradient(*arguments, **options))()
    assert len(found) == len(expected) == 2 + image_gradient
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    assert float(same_loss) == pytest.approx(float(loss), abs=1e-6)


def test_without_a_loop_the_gradient_is_the_same():
    arguments, options = setting("full")
    expected, found = (objective.meta_gradient(*arguments, **options, parallelism=side)[0] for side in (1, 4))
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_synthetic_labels_are_drawn_over_the_global_batch():
    batch, draw = tiny.batch(12), dict(seed=5, step=3, m=1)
    whole = synthetic.transfer_labels(batch["label"], batch["neighbor_labels"], 6, **draw)
    parts = [synthetic.transfer_labels(batch["label"][4 * i:][:4], batch["neighbor_labels"][4 * i:][:4], 6, **draw,
                                       replica=i, replicas=3) for i in range(3)]
    np.testing.assert_array_equal(tf.concat(parts, axis=0), whole)


def test_evaluation_batches_are_filled_up_for_replicas_to_share():
    from test_pipeline import PLAIN, SPLIT

    batches = list(pipeline.evaluation_batches(SPLIT, PLAIN, batch_size=8, multiple=8).as_numpy_iterator())
    assert [len(batch["label"]) for batch in batches] == [8, 8, 8]
    ids = np.concatenate([batch["id"] for batch in batches])
    np.testing.assert_array_equal(ids, [*SPLIT.ids, -1, -1, -1, -1])
    assert (batches[-1]["label"][4:] == -1).all() and (batches[-1]["image"][4:] == 0).all()


def test_what_fills_a_batch_up_does_not_count_in_validation():
    import mlnt_tf

    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.compile(learning_rate=.1)
    batch = tiny.batch(8)
    few = {"image": batch["image"][:5], "label": batch["label"][:5]}
    filled = {"image": batch["image"], "label": tf.concat([batch["label"][:5], [-1, -1, -1]], axis=0)}
    expected, found = ([float(value) for value in (model.reset_metrics(), model.test_step(one))[1].values()]
                       for one in (few, filled))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("settings, count, message", [
    (dict(batch_size=130), 4, "128 or 132"), (dict(batch_size=3, num_neighbors=1), 4, "cannot be shared evenly by 4 replicas. Use 4"),
    (dict(meta_every=2), 2, "--meta_every=2"), (dict(sync_batch_norm=True, jit_compile="true"), 2, "--jit_compile=true")])
def test_what_replicas_cannot_share_is_refused(settings, count, message):
    config = Config(**settings)
    with pytest.raises(UserError, match=message):
        planning.plan_devices(dataclasses.replace(config, logical_devices=count))
    planning.plan_devices(config)


@pytest.mark.parametrize("text", ["nonsense", "{}", CLUSTER % 2, '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": '
                                  '{"type": "worker", "index": 0}}'])
def test_a_bad_tf_config_is_told(text):
    with pytest.raises(UserError, match="TF_CONFIG"):
        planning.read_cluster(text)


def test_a_good_tf_config_is_read():
    assert planning.read_cluster(CLUSTER % 1) == (["a:1", "b:1"], 1)
    assert planning.read_cluster(CLUSTER.replace(', "b:1"', "") % 0) is None and planning.read_cluster("") is None


@pytest.mark.parametrize("settings, message", [
    (dict(strategy="multi_worker"), "needs TF_CONFIG"), (dict(num_devices=3), "--num_devices=3 is above the 1")])
def test_devices_that_are_not_there_are_told(settings, message, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=message):
        planning.plan_devices(Config(**settings))


@pytest.mark.parametrize("error, expected", [
    (tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:1 stopped sending heartbeats"), "worker 1"),
    (tf.errors.AbortedError(None, None, "collective aborted"), "a worker"),
    (tf.errors.InvalidArgumentError(None, None, "shapes"), None), (ValueError("task:1"), None)])
def test_who_is_gone_is_read_off_the_error(error, expected):
    several = devices.Devices(tf.distribute.get_strategy(), worker=0, workers=2)
    assert devices.lost_worker(error, several) == expected
    assert devices.lost_worker(error, devices.Devices(tf.distribute.get_strategy())) is None
