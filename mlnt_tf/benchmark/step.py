"""Time of one training step, compared with a step of cross entropy and with the bare arithmetic."""

import resource
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.benchmark import arithmetic
from mlnt_tf.hardware import planning, precision
from mlnt_tf.methods import mlnt
from mlnt_tf.models.build import build_network
from mlnt_tf.training.compile import compile_model

CLASSES = 10
NEIGHBORS = 10
HEADINGS = ("network", "width", "pixels", "batch", "M", "precision", "order", "fast", "XLA",
            "ms/step", "+-", "images/s", "x cross entropy", "GFLOP/s", "ceiling", "of ceiling",
            "peak MB", "first step s")


def measure(config, *, repeats):
    """Measures the step of `config`, the step of cross entropy, and the products of the step alone.

    Args:
      config: a resolved Config: precision and jit_compile are not "auto".
      repeats: int, the number of timed steps, after two untimed ones.

    Returns:
      dict, a row of the table and of the JSON file. Times are medians of the repeats. "spread_ms"
      is half the difference between the slowest and the fastest step. "peak_memory_mb" is that of
      this process up to the last step, imports included. The ceiling is the rate of the step's
      products alone.
    """
    start_time = time.perf_counter()
    keras.config.set_dtype_policy(config.precision)
    batch = synthetic_batch(config)
    step = build_step(config, config.num_synthetic)
    step(batch)
    first_step_seconds = time.perf_counter() - start_time
    seconds = timed(step, batch, repeats)
    peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cross_entropy_seconds = seconds
    if config.num_synthetic:
        cross_entropy_step = warmed(build_step(config, 0), batch)
        cross_entropy_seconds = timed(cross_entropy_step, batch, repeats)
    counts = arithmetic.products(step.get_concrete_function(batch))
    seconds_alone = arithmetic.seconds_alone(counts)
    median = statistics.median(seconds)
    gflop = arithmetic.flops(counts) / 1e9
    return {
        **describe(config), "meta_order": config.meta_order, "fast_weights": config.fast_weights,
        "synthetic_parallelism": config.synthetic_parallelism,
        "ms_per_step": 1e3 * median, "spread_ms": 500 * (max(seconds) - min(seconds)),
        "images_per_second": config.batch_size / median, "gflop_per_step": gflop,
        "gflops": gflop / median, "ceiling_gflops": gflop / seconds_alone,
        "share_of_ceiling": seconds_alone / median, "peak_memory_mb": peak_memory_mb,
        "first_step_seconds": first_step_seconds,
        "ratio_to_cross_entropy": median / statistics.median(cross_entropy_seconds)}


def start(config, launched):
    """Measures the time from the launch of a process to the end of its first step.

    Args:
      config: a resolved Config.
      launched: float, `time.time()` before this process began.

    Returns:
      dict, a row of the table and of the JSON file.
    """
    ready = time.time()
    keras.config.set_dtype_policy(config.precision)
    build_step(config, config.num_synthetic)(synthetic_batch(config))["loss"].numpy()
    done = time.time()
    return {**describe(config), "import_seconds": ready - launched,
            "first_step_seconds": done - ready, "seconds": done - launched}


def describe(config):
    """Returns the settings that identify a row: a dict."""
    return {"network": config.model, "width": config.width, "image_size": config.image_size,
            "batch_size": config.batch_size, "num_synthetic": config.num_synthetic,
            "precision": config.precision, "jit_compile": config.jit_compile == "true"}


def cells(row):
    """Returns a row of `measure` as text, in the order of HEADINGS."""
    return (row["network"], row["width"], row["image_size"], row["batch_size"],
            row["num_synthetic"], row["precision"], row["meta_order"], row["fast_weights"],
            "on" if row["jit_compile"] else "off",
            f"{row['ms_per_step']:.1f}", f"{row['spread_ms']:.1f}",
            f"{row['images_per_second']:.1f}", f"{row['ratio_to_cross_entropy']:.2f}",
            f"{row['gflops']:.0f}", f"{row['ceiling_gflops']:.0f}",
            f"{100 * row['share_of_ceiling']:.0f} %", f"{row['peak_memory_mb']:.0f}",
            f"{row['first_step_seconds']:.1f}")


def synthetic_batch(config, *, seed=0):
    """Returns a batch of noise, because the values do not change the time of a step."""
    rng = np.random.default_rng(seed)
    size = config.batch_size
    image = rng.normal(size=[size, *input_shape(config)])
    label = rng.integers(CLASSES, size=size)
    neighbor_labels = rng.integers(CLASSES, size=[size, NEIGHBORS])
    return {"id": tf.range(size, dtype=tf.int64),
            "image": tf.constant(image, tf.float32),
            "label": tf.constant(label, tf.int32),
            "neighbor_labels": tf.constant(neighbor_labels, tf.int32)}


def input_shape(config):
    """Returns (height, width, channels) of the benchmark's images."""
    return config.image_size, config.image_size, 3


def resolved(config):
    """Returns a Config without "auto", as a single process trains it on this machine."""
    return precision.resolve(config, planning.plan_devices(config, environment={}))


def build_step(config, num_synthetic):
    """Returns the compiled step of a new model, with its teacher: a function of a batch."""
    network = build_network(config.model, width=config.width, input_shape=input_shape(config),
                            num_classes=CLASSES, seed=0)
    model = mlnt.new_mlnt(config, network, num_synthetic)
    compile_model(model, config, learning_rate=config.learning_rate, meta_rate=config.meta_rate)
    model.configure_teacher(decay=0.99, decay_start=0.99, ramp_steps=0, statistics="own")
    return tf.function(model.train_step, jit_compile=config.jit_compile == "true")


def warmed(step, batch):
    """Runs a step once, which traces it, and returns it."""
    step(batch)
    return step


def timed(step, batch, repeats):
    """Returns the seconds of each of `repeats` steps, after an untimed one: list of float."""
    step(batch)
    seconds = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        step(batch)["loss"].numpy()
        seconds.append(time.perf_counter() - start_time)
    return seconds
