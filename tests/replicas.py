"""python tests/replicas.py OUT.npz --replicas=2 [--case=NAME ...]: the same few steps on so many devices.

With TF_CONFIG set it is one process of several, each a replica. Without --replicas it is one device. What it saves, the
weights of student and teacher, must not hang on that.
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

CASES = {  # arguments of MLNT, and of what is around it
    "first": dict(),
    "full": dict(meta_order="full"),
    "first_sync": dict(norm=True, streams=2),
    "full_sync": dict(norm=True, meta_order="full"),
    "head": dict(fast_weights="head", meta_order="full"),
    "each_its_own": dict(inner_reduce="replica"),
    "several_steps": dict(steps_per_execution=2, update_mode="joint"),
    "compiled": dict(jit_compile=True),
    "bfloat16": dict(precision="mixed_bfloat16"),
    "joint": dict(joint=True),
}


def is_first(context):
    return tf.get_static_value(context.replica_id_in_sync_group) in (0, None)


@contextlib.contextmanager
def counted(bytes_of_a_step):
    """Notes the bytes that each replica all-reduces in a step while it is traced, but for batch statistics, whose size is not
    known then; no all-reduce stands in a loop."""
    context = tf.distribute.ReplicaContext
    all_reduce, step = context.all_reduce, mlnt_tf.MLNT.train_step

    def counting_all_reduce(self, op, value, *args, **kwargs):
        if is_first(self) and bytes_of_a_step:
            bytes_of_a_step[-1] += sum(tensor.dtype.size * (tensor.shape.num_elements() or 0)
                                       for tensor in tf.nest.flatten(value))
        return all_reduce(self, op, value, *args, **kwargs)

    def counting_step(self, batch):
        if is_first(tf.distribute.get_replica_context()):
            bytes_of_a_step.append(0)
        return step(self, batch)

    context.all_reduce, mlnt_tf.MLNT.train_step = counting_all_reduce, counting_step
    try:
        yield
    finally:
        context.all_reduce, mlnt_tf.MLNT.train_step = all_reduce, step


def train(strategy, worker=(), *, steps, norm=False, streams=1, steps_per_execution=1, jit_compile=False,
          precision="float32", joint=False, **kwargs):
    keras.config.set_dtype_policy(precision)
    with strategy.scope():
        layer = mlnt_tf.FusedBatchNormalization(momentum=.9, synchronized=True) if norm else None
        if joint:
            model = JointOptimization(tiny.dense(), labels=tiny.one_hot(tiny.dataset(steps, size=16)), alpha=1.2, beta=.8)
        else:
            model = mlnt_tf.MLNT(tiny.dense(layer=layer), num_synthetic=3, **kwargs)
        model.compile(learning_rate=.2, momentum=.9, weight_decay=1e-4, jit_compile=jit_compile,
                      steps_per_execution=steps_per_execution, **({} if joint else {"meta_rate": .4}))
    dataset, other = tiny.positioned(steps, size=16), tiny.dataset(steps, size=16, classes=2)
    if streams == 2:
        dataset = tf.data.Dataset.zip({"meta": dataset, "classification": other})
    traffic = []
    with counted(traffic) if strategy.num_replicas_in_sync > 1 and not worker else contextlib.nullcontext():
        history = fit(model, Devices(strategy, *worker), dataset, steps)
    keras.config.set_dtype_policy("float32")
    return {**{f"student/{i}": v.numpy() for i, v in enumerate(model.student.variables)},
            **{f"teacher/{i}": v.numpy() for i, v in enumerate(model.teacher.variables)},
            **{f"logs/{name}": np.float32(values) for name, values in history.items()},
            **({"bytes/step": traffic[-1]} if traffic else {})}


def fit(model, devices, dataset, steps):
    return model.fit(devices.distributed(devices.parts(dataset), endless=True), steps_per_epoch=steps, verbose=0,
                     shuffle=False, validation_data=devices.distributed(devices.parts(tiny.dataset(1, size=16))),
                     callbacks=[mlnt_tf.EmaTeacher(.9)]).history


def what_keras_can_do(strategy):
    """{what: whether stock Keras does it under the strategy}: the reasons of mlnt_tf/training/keras_internals.py."""
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = tiny.dense()

        def call(self, images):
            return self.network(images)

        def train_step(self, batch):
            self.optimizer.apply([tf.zeros_like(v) for v in self.trainable_variables], self.trainable_variables)
            return {"loss": tf.reduce_mean(self.network(batch["image"]))}

    class Unbuilt(Plain):
        def _maybe_symbolic_build(self, *args, **kwargs):
            pass

    found = {}
    for name, kind, steps_per_execution in (("build", Plain, 1), ("logs", Unbuilt, 1), ("several_steps", Unbuilt, 2)):
        with strategy.scope():
            model = kind()
            model.compile(optimizer=keras.optimizers.SGD(.1), steps_per_execution=steps_per_execution)
            model.optimizer.build(model.trainable_variables)
        try:
            model.fit(tiny.dataset(2), verbose=0, shuffle=False)
            found[name] = True
        except (RuntimeError, TypeError, ValueError, tf.errors.OpError):
            found[name] = False
    return found


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--keras", action="store_true", help="also try what stock Keras cannot do")
    options = parser.parse_args(argv)
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif options.replicas > 1:
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                                   [tf.config.LogicalDeviceConfiguration()] * options.replicas)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(options.replicas)])
    else:
        strategy = tf.distribute.get_strategy()
    worker = (strategy.cluster_resolver.task_id, 2) if "TF_CONFIG" in os.environ else ()
    found = {}
    for case in options.case or CASES:
        for name, value in train(strategy, worker, steps=options.steps, **CASES[case]).items():
            found[f"{case}/{name}"] = value
        print(case, "done", flush=True)
    for name, can in what_keras_can_do(strategy).items() if options.keras else ():
        found[f"keras/{name}"] = can
    np.savez(options.out, **found)


def differences(one, other):
    """{case: the largest difference of any weight} of two results."""
    one, other, found = np.load(one), np.load(other), {}
    for name in one.files:
        case, kind = name.split("/")[:2]
        if kind in ("student", "teacher"):
            found[case] = max(found.get(case, 0.0), float(np.abs(one[name] - other[name]).max()))
    return found


if __name__ == "__main__":
    main()
