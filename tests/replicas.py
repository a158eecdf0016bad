"""Trains a few steps on several replicas and saves the weights of student and teacher.

    python tests/replicas.py OUT.npz --replicas=2 [--case=NAME ...]

Without --replicas there is one device. With TF_CONFIG set, this process is one of several workers,
each with one replica. The weights must not depend on the number of replicas.
"""

import argparse
import contextlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

import keras
import numpy as np
import tensorflow as tf

import mlnt_tf
from mlnt_tf.hardware.devices import Devices
from mlnt_tf.methods.joint_optimization import JointOptimization

import tiny

CASES = {  # Arguments of `train`.
    "first": dict(),
    "full": dict(meta_order="full"),
    "first_sync": dict(norm=True, streams=2),
    "full_sync": dict(norm=True, meta_order="full"),
    "head": dict(fast_weights="head", meta_order="full"),
    "each_its_own": dict(inner_reduce="replica"),
    "several_steps": dict(steps_per_execution=2, update_mode="joint"),
    "compiled": dict(jit_compile=True),
    "bfloat16": dict(precision="mixed_bfloat16"),
    "expected": dict(synthetic="expected", meta_order="full"),
    "mean_teacher": dict(model_class=mlnt_tf.MeanTeacher),
    "joint": dict(joint=True),
}


def is_first_replica(context):
    return tf.get_static_value(context.replica_id_in_sync_group) in (0, None)


@contextlib.contextmanager
def count_bytes(bytes_per_step):
    """Appends the bytes that each replica all-reduces in a step to a list, while it is traced.

    Batch statistics are not counted, because their size is not known then. No all-reduce is in a
    loop, so counting while tracing is enough.
    """
    context_class = tf.distribute.ReplicaContext
    all_reduce = context_class.all_reduce
    train_step = mlnt_tf.MLNT.train_step

    def counting_all_reduce(self, op, value, *args, **kwargs):
        if is_first_replica(self) and bytes_per_step:
            bytes_per_step[-1] += sum(tensor.dtype.size * (tensor.shape.num_elements() or 0)
                                      for tensor in tf.nest.flatten(value))
        return all_reduce(self, op, value, *args, **kwargs)

    def counting_train_step(self, batch):
        if is_first_replica(tf.distribute.get_replica_context()):
            bytes_per_step.append(0)
        return train_step(self, batch)

    context_class.all_reduce = counting_all_reduce
    mlnt_tf.MLNT.train_step = counting_train_step
    try:
        yield
    finally:
        context_class.all_reduce = all_reduce
        mlnt_tf.MLNT.train_step = train_step


def build_model(*, steps, norm, joint, model_class=mlnt_tf.MLNT, **kwargs):
    """Returns a model that is not compiled. `kwargs` are arguments of `model_class`."""
    if joint:
        labels = tiny.one_hot(tiny.dataset(steps, size=16))
        return JointOptimization(tiny.dense(), labels=labels, alpha=1.2, beta=.8)
    layer = None
    if norm:
        layer = mlnt_tf.FusedBatchNormalization(momentum=.9, synchronized=True)
    return model_class(tiny.dense(layer=layer), num_synthetic=3, **kwargs)


def train(strategy, worker=(), *, steps, norm=False, streams=1, steps_per_execution=1,
          jit_compile=False, precision="float32", joint=False, **kwargs):
    """Trains under a strategy.

    Args:
      worker: (index, number of workers), or () for a single process.
      steps: int.
      norm: bool, whether the network has synchronized batch normalization.
      streams: 1, or 2 for separate meta and classification batches.
      joint: bool, trains Joint Optimization instead of MLNT.
      **kwargs: arguments of MLNT, or of the class in `model_class`.

    Returns:
      dict of arrays: variables of student and teacher, logs, and the all-reduced bytes per step.
    """
    keras.config.set_dtype_policy(precision)
    with strategy.scope():
        model = build_model(steps=steps, norm=norm, joint=joint, **kwargs)
        meta = {} if joint else {"meta_rate": .4}
        model.compile(learning_rate=.2, momentum=.9, weight_decay=1e-4, jit_compile=jit_compile,
                      steps_per_execution=steps_per_execution, **meta)
    dataset = tiny.positioned(steps, size=16)
    if streams == 2:
        classification = tiny.dataset(steps, size=16, classes=2)
        dataset = tf.data.Dataset.zip({"meta": dataset, "classification": classification})
    bytes_per_step = []
    counter = contextlib.nullcontext()
    if strategy.num_replicas_in_sync > 1 and not worker:
        counter = count_bytes(bytes_per_step)
    with counter:
        history = fit(model, Devices(strategy, *worker), dataset, steps)
    keras.config.set_dtype_policy("float32")
    arrays = {}
    for name in ("student", "teacher"):
        for index, variable in enumerate(getattr(model, name).variables):
            arrays[f"{name}/{index}"] = variable.numpy()
    for name, values in history.items():
        arrays[f"logs/{name}"] = np.float32(values)
    if bytes_per_step:
        arrays["bytes/step"] = bytes_per_step[-1]
    return arrays


def fit(model, devices, dataset, steps):
    """Trains one epoch with validation and returns the history."""
    validation = devices.distributed(devices.parts(tiny.dataset(1, size=16)))
    return model.fit(devices.distributed(devices.parts(dataset), endless=True),
                     steps_per_epoch=steps, verbose=0, shuffle=False, validation_data=validation,
                     callbacks=[mlnt_tf.EmaTeacher(.9)]).history


def keras_abilities(strategy):
    """Returns whether `fit` of stock Keras works under a strategy: dict of str to bool.

    The keys are the reasons for `mlnt_tf.training.keras_internals.DistributedModel`.
    """
    class Stock(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = tiny.dense()

        def call(self, images):
            return self.network(images)

        def train_step(self, batch):
            zeros = [tf.zeros_like(variable) for variable in self.trainable_variables]
            self.optimizer.apply(zeros, self.trainable_variables)
            return {"loss": tf.reduce_mean(self.network(batch["image"]))}

    class WithoutSymbolicBuild(Stock):
        def _maybe_symbolic_build(self, *args, **kwargs):
            pass

    cases = (("build", Stock, 1), ("logs", WithoutSymbolicBuild, 1),
             ("several_steps", WithoutSymbolicBuild, 2))
    abilities = {}
    for name, model_class, steps_per_execution in cases:
        with strategy.scope():
            model = model_class()
            model.compile(optimizer=keras.optimizers.SGD(.1),
                          steps_per_execution=steps_per_execution)
            model.optimizer.build(model.trainable_variables)
        try:
            model.fit(tiny.dataset(2), verbose=0, shuffle=False)
            abilities[name] = True
        except (RuntimeError, TypeError, ValueError, tf.errors.OpError):
            abilities[name] = False
    return abilities


def new_strategy(replicas):
    """Returns the strategy of TF_CONFIG, or one with this number of CPU devices."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="path of the .npz file")
    parser.add_argument("--replicas", type=int, default=1, help="number of CPU devices")
    parser.add_argument("--steps", type=int, default=4, help="number of steps per case")
    parser.add_argument("--case", action="append", choices=CASES, help="default: all cases")
    parser.add_argument("--keras", action="store_true", help="also test stock Keras")
    options = parser.parse_args(argv)
    strategy = new_strategy(options.replicas)
    worker = ()
    if "TF_CONFIG" in os.environ:
        worker = (strategy.cluster_resolver.task_id, 2)
    arrays = {}
    for case in options.case or CASES:
        trained = train(strategy, worker, steps=options.steps, **CASES[case])
        arrays.update({f"{case}/{name}": value for name, value in trained.items()})
        print(f"{case}: done", flush=True)
    if options.keras:
        abilities = keras_abilities(strategy)
        arrays.update({f"keras/{name}": ability for name, ability in abilities.items()})
    np.savez(options.out, **arrays)


def largest_differences(path, other_path):
    """Returns the largest difference of any weight in two files: dict of case to float.

    For use by hand, for example after training all cases with 1 and 4 replicas.
    """
    arrays = np.load(path)
    other_arrays = np.load(other_path)
    largest = {}
    for name in arrays.files:
        case, kind = name.split("/")[:2]
        if kind in ("student", "teacher"):
            difference = float(np.abs(arrays[name] - other_arrays[name]).max())
            largest[case] = max(largest.get(case, 0.0), difference)
    return largest


if __name__ == "__main__":
    main()
