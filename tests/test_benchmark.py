"""Counts and tables of the benchmark. No test asserts a time."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.benchmark import __main__ as benchmark
from mlnt_tf.benchmark import arithmetic, input_pipeline, search, step
from mlnt_tf.config import Config
from mlnt_tf.neighbors import find_neighbors

STEP_KEYS = {"network", "width", "batch_size", "num_synthetic", "precision", "meta_order",
             "jit_compile", "ms_per_step", "images_per_second", "gflops", "ceiling_gflops",
             "peak_memory_mb", "first_step_seconds", "ratio_to_cross_entropy"}
SMALL = dict(model="cnn", width=4, image_size=8, batch_size=16, precision="float32",
             jit_compile="false")


@pytest.fixture(autouse=True)
def float32_policy():
    """Restores the dtype policy that a benchmark sets."""
    yield
    keras.config.set_dtype_policy("float32")


def products(function, *shapes):
    """The products of a function of float32 tensors."""
    signature = [tf.TensorSpec(shape) for shape in shapes]
    return arithmetic.products(tf.function(function).get_concrete_function(*signature))


def flops(function, *shapes):
    return arithmetic.flops(products(function, *shapes))


def test_flops_of_a_matrix_product_forward_and_backward():
    def backward(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = x @ w
        return tape.gradient(y, [x, w])

    assert flops(lambda x, w: x @ w, [5, 3], [3, 2]) == 2 * 5 * 3 * 2
    assert flops(backward, [5, 3], [3, 2]) == 3 * 2 * 5 * 3 * 2


def test_flops_of_a_strided_convolution_forward_and_backward():
    def backward(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf.nn.conv2d(x, w, 2, "SAME")
        return tape.gradient(y, [x, w])

    forward = 2 * (2 * 4 * 4 * 7) * (3 * 3 * 5)  # output elements times taps
    assert flops(lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"), [2, 8, 8, 5], [3, 3, 5, 7]) == forward
    assert flops(backward, [2, 8, 8, 5], [3, 3, 5, 7]) == 3 * forward


def test_loop_counts_once_per_iteration():
    def loop(x):
        _, x = tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (0, x),
                             maximum_iterations=3)
        return x

    assert flops(loop, [4, 4]) == 3 * 2 * 4**3


def test_condition_counts_its_more_expensive_branch():
    def condition(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ x @ x, lambda: x)

    assert flops(condition, [4, 4]) == 2 * 2 * 4**3


@pytest.mark.parametrize("settings, forwards", [
    (dict(num_synthetic=0), 4), (dict(num_synthetic=10), 55),
    (dict(num_synthetic=10, synthetic_parallelism=4), 55),
    (dict(num_synthetic=10, fast_weights="head"), 7)])
def test_step_costs_five_plus_five_m_forward_passes(settings, forwards):
    """Teacher 1, shared forward 1, inner gradients 2 M, consistency 3 M, classification 3.

    Without synthetic labels, teacher 1 and classification 3.
    """
    config = Config(model="preact_resnet8", width=4, image_size=32, batch_size=8, **settings)
    batch = step.synthetic_batch(config)
    network = step.build_network("preact_resnet8", width=4, input_shape=(32, 32, 3),
                                 num_classes=10, seed=0)
    forward = flops(lambda x: network(x, training=True), [8, 32, 32, 3])
    train_step = step.build_step(config, config.num_synthetic)
    counted = arithmetic.products(train_step.get_concrete_function(batch))
    assert arithmetic.flops(counted) == pytest.approx(forwards * forward, rel=.01)


def test_every_kind_of_product_can_be_run_alone():
    def function(x, w, p):
        with tf.GradientTape() as tape:
            tape.watch([x, w, p])
            convolution = tf.nn.conv2d(x, w, 2, "VALID")
            product = tf.matmul(p, p, transpose_a=True)
            y = tf.reduce_sum(convolution) + tf.reduce_sum(product)
        return tape.gradient(y, [x, w, p])

    counts = products(function, [2, 8, 8, 4], [3, 3, 4, 6], [5, 3])
    kinds = {product.kind for product in counts}
    assert {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul"} <= kinds
    assert arithmetic.seconds_alone(counts, repeats=1) > 0


@pytest.mark.slow
def test_step_row_has_all_columns_and_can_be_written_as_json():
    row = step.measure(Config(num_synthetic=2, **SMALL), repeats=1)
    assert STEP_KEYS <= set(row)
    assert len(step.cells(row)) == len(step.HEADINGS)
    json.dumps(row)


@pytest.mark.slow
def test_input_is_compared_with_decoder_and_step(monkeypatch):
    monkeypatch.setattr(input_pipeline, "CIFAR10", 600)
    monkeypatch.setattr(input_pipeline, "STEPS", (1, 2))
    rows = input_pipeline.measure(16, repeats=1)
    assert [row["share_of_decoder"] is None for row in rows] == [False, False, False, True, True]
    row = input_pipeline.measure_step(Config(num_synthetic=1, **SMALL), rows, repeats=1)
    images = 2 * 16  # Both streams have batches of 16.
    assert row["images_consumed_per_second"] == pytest.approx(images / row["ms_per_step"] * 1e3)
    assert len(input_pipeline.cells(rows[0])) == len(input_pipeline.HEADINGS)
    assert len(input_pipeline.step_cells(row)) == len(input_pipeline.STEP_HEADINGS)
    json.dumps(rows + [row])


def test_input_has_a_stream_with_neighbors_and_a_filtered_one(tmp_path):
    stored = input_pipeline.record_images(input_pipeline.jpegs(16), 300, tmp_path,
                                          stored=(16, 16), images_per_shard=128)
    assert len(list(tmp_path.iterdir())) == 3 and len(stored) == 300
    batches = list(input_pipeline.streams(stored, 12, 8, 3, scope="dataset"))
    assert len(batches) == 3
    assert batches[0]["meta"]["neighbor_labels"].shape == [8, input_pipeline.NEIGHBORS]
    assert batches[0]["classification"]["image"].shape == [8, 12, 12, 3]
    assert "neighbor_labels" not in batches[0]["classification"]


def test_every_combination_of_listed_values_is_measured():
    options = benchmark.parse(["step", "--num_synthetic=0,4", "--precision=float32,mixed_bfloat16"])
    settings = [(config.num_synthetic, config.precision) for config in benchmark.configs(options)]
    assert settings == [(0, "float32"), (0, "mixed_bfloat16"), (4, "float32"),
                        (4, "mixed_bfloat16")]


@pytest.mark.parametrize("argv, message", [
    (["step", "--num_synthetic=many"], "--num_synthetic=many"),
    (["step", "--model=vgg"], "--model=vgg"), (["step", "--repeats=0"], "--repeats=0"),
    (["neighbors", "--features=0"], "--features=0"), (["lap"], "invalid choice"),
    (["step", "--json=/no/such/f"], "--json"), (["neighbors", "--points=5"], "--points=5"),
    (["neighbors", "--points=few"], "--points=few"),
    (["input", "--image_size=64"], "--image_size=64"),
    (["all", "--image_size=64"], "--image_size=64"),
    (["step", "--image_size=0"], "--image_size=0")])
def test_bad_value_is_refused_in_one_line(argv, message, capsys):
    assert benchmark.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_mixture_has_clusters_of_few_dimensions(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CLUSTERS", 3)
    search.write_mixture(tmp_path / "x.npy", 300, 32)
    points = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert points.shape == (300, 32) and points.dtype == np.float32
    table = find_neighbors(points, num_neighbors=20, backend="exact", path=tmp_path / "table.npy")
    groups = {frozenset([row, *table.indices[row]]) for row in range(300)}
    assert np.load(tmp_path / "table.npy").dtype == np.int32 and len(groups) > 3
    neighbors = points[table.indices[0]]
    centered = neighbors - neighbors.mean(axis=0)
    assert np.linalg.matrix_rank(centered, tol=1e-3) <= search.INTRINSIC
