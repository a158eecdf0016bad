"""How long a training will take, from a few real steps and batches."""

import dataclasses
import math
import time

import keras
import numpy as np

from mlnt_tf.data import pipeline
from mlnt_tf.methods import mean_teacher, mlnt
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.models import predict
from mlnt_tf.models.submodels import feature_extractor, mirror_averaged
from mlnt_tf.training.compile import compile_model

TIMED_STEPS = 3


def planned_steps(config, examples, method):
    """Returns {kind of step: number of steps} of the complete run; see `methods.Method`."""
    epochs = method.planned_epochs(config, examples)
    steps = {kind: math.ceil(count * examples.steps_per_epoch) for kind, count in epochs.items()}
    if "cross entropy" in steps:  # The other kinds are rounded up, so this one is the remainder.
        others = sum(count for kind, count in steps.items() if kind != "cross entropy")
        total = sum(epochs.values()) * examples.steps_per_epoch
        steps["cross entropy"] = math.ceil(total) - others
    return steps


def time_step(kind, examples, config):
    """Returns the duration of one training step in seconds, including its input.

    Args:
      kind: "cross entropy", "mlnt" or "mean teacher".
      examples, config: those of the run. The trained weights are discarded.
    """
    network = examples.new_network(config)
    config = dataclasses.replace(config, steps_per_execution=1)
    neighbors = None
    variants = {"mlnt": mlnt.with_samples(config.num_synthetic),
                "mean teacher": mean_teacher.VARIANT}
    if kind in variants:
        model = variants[kind].new_model(dataclasses.replace(config, meta_every=1), network,
                                         num_examples=len(examples.train))
        compile_model(model, config, learning_rate=config.learning_rate, meta_rate=config.meta_rate)
        if variants[kind].uses_neighbors:
            neighbors = np.zeros([len(examples.train), config.num_neighbors], np.int32)
    else:
        model = compile_model(CrossEntropy(network), config, learning_rate=config.learning_rate)
    batches = pipeline.training_batches(
        examples.train, examples.preprocess, batch_size=config.batch_size,
        steps_per_epoch=TIMED_STEPS + 1, epochs=1, seed=config.seed, augmented=config.augment,
        neighbors=neighbors)
    ends = []
    model.fit(batches, verbose=0, shuffle=False, callbacks=[keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.monotonic()))])
    return float(min(np.diff(ends)))  # The first step is left out, because it includes tracing.


def time_features(examples, config):
    """Returns the estimated time in seconds to compute the features of all images once.

    Args:
      examples, config: those of the run.
    """
    extractor = feature_extractor(examples.new_network(config))
    if config.flip_average:
        extractor = mirror_averaged(extractor)
    splits = (examples.train, examples.validation, examples.test)
    num_batches = sum(map(len, splits)) / config.batch_size
    batches = examples.batches(examples.train, config).take(TIMED_STEPS + 1)
    ends = [time.monotonic()]
    ends += [time.monotonic() for _ in predict.iterate_outputs(extractor, batches)]
    seconds = np.diff(ends)
    # The first batch includes tracing, so it counts only if there is no other.
    return float(min(seconds[1:] if len(seconds) > 1 else seconds) * num_batches)
