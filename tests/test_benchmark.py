"""What the benchmark counts and prints; what it times is in no assertion."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.benchmark import __main__ as benchmark
from mlnt_tf.benchmark import arithmetic, feed, search, step
from mlnt_tf.config import Config
from mlnt_tf.neighbors import find_neighbors

ISSUE_KEYS = {"network", "width", "batch_size", "num_synthetic", "precision", "meta_order", "jit_compile", "ms_per_step",
              "images_per_second", "gflops", "ceiling_gflops", "peak_memory_mb", "first_step_seconds",
              "ratio_to_cross_entropy"}


def flops(function, *shapes):
    return arithmetic.flops(arithmetic.products(tf.function(function).get_concrete_function(
        *[tf.TensorSpec(shape) for shape in shapes])))


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


def test_a_loop_counts_as_often_as_it_turns_and_a_condition_for_its_dearer_branch():
    def loop(x):
        return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (0, x), maximum_iterations=3)[1]

    def condition(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x @ x @ x, lambda: x)

    assert flops(loop, [4, 4]) == 3 * 2 * 4**3
    assert flops(condition, [4, 4]) == 2 * 2 * 4**3


@pytest.mark.parametrize("settings, forwards", [
    (dict(num_synthetic=0), 4), (dict(num_synthetic=10), 55),
    (dict(num_synthetic=10, synthetic_parallelism=4), 55), (dict(num_synthetic=10, fast_weights="head"), 7)])
def test_a_step_costs_five_and_five_m_forward_passes(settings, forwards):
    """Section 1 of the method: teacher 1, shared forward 1, 2 M and 3 M, classification 3; without M teacher and 3."""
    config = Config(model="preact_resnet8", width=4, image_size=32, batch_size=8, **settings)
    batch = step.synthetic_batch(config)
    network = step.build_network("preact_resnet8", width=4, input_shape=(32, 32, 3), num_classes=10, seed=0)
    forward = flops(lambda x: network(x, training=True), [8, 32, 32, 3])
    counted = arithmetic.products(step.build_step(config, config.num_synthetic).get_concrete_function(batch))
    assert arithmetic.flops(counted) == pytest.approx(forwards * forward, rel=.01)


def test_every_counted_product_can_be_run_alone():
    x, w, p = [2, 8, 8, 4], [3, 3, 4, 6], [5, 3]

    def all_of_them(x, w, p):
        with tf.GradientTape() as tape:
            tape.watch([x, w, p])
            y = tf.reduce_sum(tf.nn.conv2d(x, w, 2, "VALID")) + tf.reduce_sum(tf.matmul(p, p, transpose_a=True))
        return tape.gradient(y, [x, w, p])

    counts = arithmetic.products(tf.function(all_of_them).get_concrete_function(
        *[tf.TensorSpec(shape) for shape in (x, w, p)]))
    assert {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "MatMul"} <= {one.kind for one in counts}
    assert arithmetic.seconds_alone(counts, repeats=1) > 0


def test_a_row_has_what_the_json_promises():
    config = Config(model="cnn", width=4, image_size=8, batch_size=16, num_synthetic=2, precision="float32", jit_compile="false")
    row = step.measure(config, repeats=1)
    assert ISSUE_KEYS <= set(row)
    assert len(step.cells(row)) == len(step.HEADINGS)
    json.dumps(row)
    keras.config.set_dtype_policy("float32")


def test_the_input_beside_decoder_and_step(monkeypatch):
    monkeypatch.setattr(feed, "CIFAR10", 600)
    monkeypatch.setattr(feed, "STEPS", (1, 2))
    rows = feed.measure(16, repeats=1)
    assert [row["share_of_decoder"] is None for row in rows] == [False, False, False, True, True]
    config = Config(model="cnn", width=4, image_size=8, batch_size=16, num_synthetic=1, precision="float32", jit_compile="false")
    row = feed.measure_step(config, rows, repeats=1)
    assert row["images_consumed_per_second"] == pytest.approx(2 * 16 / row["ms_per_step"] * 1e3)  # both streams
    assert len(feed.cells(rows[0])) == len(feed.HEADINGS) and len(feed.step_cells(row)) == len(feed.STEP_HEADINGS)
    json.dumps(rows + [row])


def test_the_streams_of_the_input_have_neighbors_and_a_filter(tmp_path):
    stored = feed.record_images(feed.jpegs(16), 300, tmp_path, stored=(16, 16), shard=128)
    assert len(list(tmp_path.iterdir())) == 3 and len(stored) == 300
    batches = list(feed.streams(stored, 12, 8, 3, scope="dataset"))
    assert len(batches) == 3 and batches[0]["meta"]["neighbor_labels"].shape == [8, feed.NEIGHBORS]
    assert batches[0]["classification"]["image"].shape == [8, 12, 12, 3]
    assert "neighbor_labels" not in batches[0]["classification"]


def test_lists_are_run_side_by_side():
    options = benchmark.parse(["step", "--num_synthetic=0,4", "--precision=float32,mixed_bfloat16"])
    assert [(one.num_synthetic, one.precision) for one in benchmark.configs(options)] == [
        (0, "float32"), (0, "mixed_bfloat16"), (4, "float32"), (4, "mixed_bfloat16")]


@pytest.mark.parametrize("argv, message", [
    (["step", "--num_synthetic=many"], "--num_synthetic=many"), (["step", "--model=vgg"], "--model=vgg"),
    (["step", "--repeats=0"], "--repeats=0"), (["lap"], "invalid choice"), (["step", "--json=/no/such/f"], "--json"),
    (["neighbors", "--points=5"], "--points=5"), (["input", "--image_size=64"], "--image_size=64"),
    (["all", "--image_size=64"], "--image_size=64"),
    (["step", "--image_size=0"], "--image_size=0")])
def test_mistakes_are_told_in_one_line(argv, message, capsys):
    assert benchmark.main(argv) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_the_mixture_is_clustered_and_of_few_dimensions(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CLUSTERS", 3)
    search.write_mixture(tmp_path / "x.npy", 300, 32)
    points = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert points.shape == (300, 32) and points.dtype == np.float32
    near = find_neighbors(points, num_neighbors=20, backend="exact", path=tmp_path / "table.npy")
    groups = {frozenset(np.r_[row, near.indices[row]]) for row in range(300)}
    assert np.load(tmp_path / "table.npy").dtype == np.int32 and len(groups) > 3
    centered = points[near.indices[0]] - points[near.indices[0]].mean(axis=0)
    assert np.linalg.matrix_rank(centered, tol=1e-3) <= search.INTRINSIC
