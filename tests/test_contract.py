"""Every method trains, resumes bit-equal, saves, loads, exports and respects weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.data import transforms
from mlnt_tf.methods.cnn_crf import CNNCRF
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.forward import Forward
from mlnt_tf.methods.gce import GCE
from mlnt_tf.methods.joint_optimization import JointOptimization
from mlnt_tf.methods.mlnt import ElrMLNT, GceMLNT
from mlnt_tf.training import checkpoints

import tiny

STEPS, BATCH, CLASSES = 2, 8, 3
SHAPE = (8, 8, 1)
ROWS = STEPS * BATCH
MATRIX = 0.7 * np.eye(CLASSES) + 0.1
LABELS = np.random.default_rng(5).integers(CLASSES, size=ROWS).astype(np.int32)
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[LABELS]
NO_CLEAN_LABELS = np.full(ROWS, -1, np.int32)
METHODS = {
    "mlnt": lambda network: mlnt_tf.MLNT(network, num_synthetic=2),
    "mlnt_expected": lambda network: mlnt_tf.MLNT(network, synthetic="expected"),
    "mean_teacher": mlnt_tf.MeanTeacher,
    "mlnt_elr": lambda network: ElrMLNT(network, num_synthetic=2, num_examples=ROWS),
    "mlnt_gce": lambda network: GceMLNT(network, num_synthetic=2),
    "mlnt_head": lambda network: mlnt_tf.MLNT(network, num_synthetic=2, fast_weights="head"),
    "cross_entropy": mlnt_tf.CrossEntropy,
    "elr": lambda network: ELR(network, num_examples=ROWS),
    "gce": GCE,
    "forward": lambda network: Forward(network, matrix=MATRIX),
    "joint_optimization": lambda network: JointOptimization(
        network, labels=ONE_HOT, alpha=1.2, beta=0.8),
    "cnn_crf": lambda network: CNNCRF(
        network, matrix=MATRIX, clean_labels=NO_CLEAN_LABELS, steps_per_epoch=STEPS),
    "cnn_crf_exact": lambda network: CNNCRF(
        network, matrix=MATRIX, clean_labels=NO_CLEAN_LABELS, steps_per_epoch=STEPS, form="exact"),
}


def new_model(method):
    """Returns a compiled model around a small convolutional network with batch normalization."""
    network = mlnt_tf.build_network("cnn", width=2, input_shape=SHAPE, num_classes=CLASSES, seed=0)
    model = METHODS[method](network)
    model.compile(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    return model


def batches(first=0):
    """Returns the data set of STEPS batches, from the batch numbered `first` on."""
    draws = np.random.default_rng(0)
    rows = {
        "id": np.arange(ROWS), "position": np.arange(ROWS, dtype=np.int32), "label": LABELS,
        "image": draws.normal(size=[ROWS, *SHAPE]).astype(np.float32),
        "neighbor_labels": draws.integers(CLASSES, size=[ROWS, 3]).astype(np.int32)}
    dataset = tf.data.Dataset.from_tensor_slices(rows).batch(BATCH, drop_remainder=True).skip(first)
    return dataset.apply(tf.data.experimental.assert_cardinality(STEPS - first))


def train(model, first=0, **kwargs):
    model.fit(batches(first), verbose=0, shuffle=False, callbacks=[mlnt_tf.EmaTeacher(0.9)],
              **kwargs)
    return values_of(model)


def values_of(model):
    """Returns {name: array} of everything a checkpoint holds."""
    return {name: variable.numpy() for name, variable in checkpoints.named_variables(model).items()}


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    """(name of the method, its trained model, the values of its variables)."""
    model = new_model(request.param)
    return request.param, model, train(model)


def test_two_steps_change_student_and_teacher(trained):
    name, model, _ = trained
    start = new_model(name)
    for network in model.networks:
        before = tiny.weights(start.networks[network])
        after = tiny.weights(model.networks[network])
        assert max(np.abs(one - other).max() for one, other in zip(before, after)) > 1e-5


def test_resume_after_the_first_step_is_bit_equal(trained, tmp_path):
    name, _, expected = trained
    interrupted = new_model(name)
    train(interrupted, steps_per_epoch=1)
    position = checkpoints.Position(0, 1, model=type(interrupted).__name__)
    checkpoints.write(tmp_path, position, values_of(interrupted))
    resumed = new_model(name)
    checkpoints.restore(resumed, *checkpoints.read_newest(tmp_path), tmp_path)
    values = train(resumed, first=1)
    for key, value in expected.items():
        if not key.startswith("metrics/"):  # `fit` resets them
            np.testing.assert_array_equal(values[key], value, err_msg=key)


def test_every_network_saves_and_loads(trained, tmp_path):
    _, model, _ = trained
    images = next(iter(batches()))["image"]
    for name, network in model.networks.items():
        network.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras", compile=False)
        expected = network(images, training=False)
        np.testing.assert_array_equal(loaded(images, training=False), expected)


def test_the_exported_network_gives_its_probabilities(trained, tmp_path):
    _, model, _ = trained
    unit_range = transforms.Normalizer(np.zeros(SHAPE, np.float32))
    path = mlnt_tf.export_saved_model(
        model.student, tmp_path, preprocess=transforms.Preprocess(SHAPE, SHAPE, unit_range),
        class_names=("a", "b", "c"))
    images = np.random.default_rng(1).integers(256, size=[4, *SHAPE], dtype=np.uint8)
    answer = tf.saved_model.load(str(path)).signatures["images"](tf.constant(images))
    expected = tf.nn.softmax(model.student(images / np.float32(255), training=False))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def gradients(method, **columns):
    """Returns the gradients of a new model's classification loss at the first batch."""
    model = new_model(method)
    model.batch_terms = lambda batch, logits: []  # They belong to no example and have no weight.
    values, _, _ = model.classification_gradients({**next(iter(batches())), **columns})
    return [np.asarray(value) for value in values if value is not None]


@pytest.mark.parametrize("method", METHODS)
def test_weights_scale_the_classification_loss(method):
    plain = gradients(method)
    assert max(np.abs(value).max() for value in plain) > 1e-4
    for value, doubled in zip(plain, gradients(method, weight=tf.fill([BATCH], 2.0)), strict=True):
        np.testing.assert_allclose(doubled, 2 * value, rtol=1e-5, atol=1e-7)
    for value in gradients(method, weight=tf.zeros([BATCH])):
        np.testing.assert_array_equal(value, 0)
