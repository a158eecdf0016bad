"""What one training step costs, beside the cross-entropy step and the arithmetic alone."""

import resource
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.benchmark import arithmetic
from mlnt_tf.experiment.stage import compile_model
from mlnt_tf.hardware import planning, precision
from mlnt_tf.methods import iterations
from mlnt_tf.models.build import build_network

CLASSES, NEIGHBORS = 10, 10
HEADINGS = ("network", "width", "pixels", "batch", "M", "precision", "order", "fast", "XLA", "ms/step", "+-",
            "images/s", "x cross entropy", "GFLOP/s", "ceiling", "share", "peak MB", "first step s")


def measure(config, *, repeats):
    """One row: the step of `config`, then in the same process that of cross entropy and the ceiling.

    Args:
      config: a Config, whose precision and jit_compile are no longer "auto".
      repeats: timed steps, after two that are not.

    Returns:
      the row, as the JSON has it: times are medians of the repeats, `spread_ms` half of what lies between the
      quickest and the slowest, `peak_memory_mb` that of this process up to the last step, imports included.
    """
    began = time.perf_counter()
    keras.config.set_dtype_policy(config.precision)
    batch = synthetic_batch(config)
    step = build_step(config, config.num_synthetic)
    step(batch)
    first = time.perf_counter() - began
    seconds = timed(step, batch, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cross_entropy = seconds
    if config.num_synthetic:
        cross_entropy = timed(warmed(build_step(config, 0), batch), batch, repeats)
    counts = arithmetic.products(step.get_concrete_function(batch))
    alone = arithmetic.seconds_alone(counts)
    median = statistics.median(seconds)
    return {
        "network": config.model, "width": config.width, "image_size": config.image_size,
        "batch_size": config.batch_size, "num_synthetic": config.num_synthetic,
        "precision": config.precision, "meta_order": config.meta_order,
        "fast_weights": config.fast_weights, "synthetic_parallelism": config.synthetic_parallelism,
        "jit_compile": config.jit_compile == "true",
        "ms_per_step": 1e3 * median, "spread_ms": 500 * (max(seconds) - min(seconds)),
        "images_per_second": config.batch_size / median, "gflop_per_step": arithmetic.flops(counts) / 1e9,
        "gflops": arithmetic.flops(counts) / median / 1e9, "ceiling_gflops": arithmetic.flops(counts) / alone / 1e9,
        "share_of_ceiling": alone / median, "peak_memory_mb": peak, "first_step_seconds": first,
        "ratio_to_cross_entropy": median / statistics.median(cross_entropy)}


def start(config, launched):
    """One row of `startup`: from `launched` (time.time(), before this process began) to the end of the first step."""
    ready = time.time()
    keras.config.set_dtype_policy(config.precision)
    build_step(config, config.num_synthetic)(synthetic_batch(config))["loss"].numpy()
    done = time.time()
    return {"network": config.model, "width": config.width, "image_size": config.image_size,
            "batch_size": config.batch_size, "num_synthetic": config.num_synthetic,
            "precision": config.precision, "jit_compile": config.jit_compile == "true",
            "import_seconds": ready - launched, "first_step_seconds": done - ready, "seconds": done - launched}


def cells(row):
    """A row as the table prints it, under HEADINGS."""
    return (row["network"], row["width"], row["image_size"], row["batch_size"], row["num_synthetic"], row["precision"],
            row["meta_order"], row["fast_weights"], "on" if row["jit_compile"] else "off",
            f"{row['ms_per_step']:.1f}", f"{row['spread_ms']:.1f}", f"{row['images_per_second']:.1f}",
            f"{row['ratio_to_cross_entropy']:.2f}", f"{row['gflops']:.0f}", f"{row['ceiling_gflops']:.0f}",
            f"{100 * row['share_of_ceiling']:.0f} %", f"{row['peak_memory_mb']:.0f}",
            f"{row['first_step_seconds']:.1f}")


def synthetic_batch(config, *, seed=0):
    """A batch of noise, `image_size` wide and high: what is in it does not change the time."""
    draws, size = np.random.default_rng(seed), config.batch_size
    return {"id": tf.range(size, dtype=tf.int64),
            "image": tf.constant(draws.normal(size=[size, *input_shape(config)]), tf.float32),
            "label": tf.constant(draws.integers(CLASSES, size=size), tf.int32),
            "neighbor_labels": tf.constant(draws.integers(CLASSES, size=[size, NEIGHBORS]), tf.int32)}


def input_shape(config):
    return config.image_size, config.image_size, 3


def resolved(config):
    """Returns the Config without an "auto", as one process of this machine would train it."""
    return precision.resolve(config, planning.plan_devices(config, environment={}))


def build_step(config, num_synthetic):
    """The compiled step of a new model, teacher included: a function of a batch."""
    network = build_network(config.model, width=config.width, input_shape=input_shape(config),
                            num_classes=CLASSES, seed=0)
    model = iterations.new_mlnt(config, network, num_synthetic=num_synthetic)
    compile_model(model, config, learning_rate=config.learning_rate, meta_rate=config.meta_rate)
    model.configure_teacher(decay=0.99, decay_start=0.99, ramp_steps=0, statistics="own")
    return tf.function(model.train_step, jit_compile=config.jit_compile == "true")


def warmed(step, batch):
    step(batch)
    return step


def timed(step, batch, repeats):
    """Seconds of each of `repeats` steps, after one that is not timed."""
    step(batch)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step(batch)["loss"].numpy()
        seconds.append(time.perf_counter() - began)
    return seconds
