"""Every use of a private attribute of Keras or TensorFlow.

Each item has a test that fails once a public replacement exists or Keras no longer needs the
workaround. tests/test_replicas.py tests what `fit` of Keras 3 lacks under a strategy of several
replicas:

1. Before the first epoch, `fit` builds a model symbolically by calling it on a batch with all of
   its columns. Under MultiWorkerMirroredStrategy it also reduces that batch on the host, which
   fails.
2. Under MultiWorkerMirroredStrategy it reduces the values that a step returns along axis 0, which
   a scalar does not have.
3. `steps_per_execution` above 1 fails under every strategy.

tests/test_keras_internals.py tests the rest.
"""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context


class DistributedModel(keras.Model):
    """A `keras.Model` that `fit` and `evaluate` can run on several replicas.

    It must be built and compiled before `fit`. Its `train_step` and `test_step` return dicts of
    scalars.
    """

    @property
    def replicas(self):
        """Number of replicas: int."""
        return self.distribute_strategy.num_replicas_in_sync

    @property
    def compiles_parts(self):
        """Whether XLA compiles the parts of a step that a replica computes alone.

        XLA cannot compile a complete step in which replicas communicate.
        """
        return self.replicas > 1 and self.jit_compile

    def _maybe_symbolic_build(self, *args, **kwargs):
        """No-op: the model is always built before `fit`."""

    def _flatten_metrics_in_order(self, logs):
        """Returns one number per name, where Keras repeats names that two metrics share."""
        names = dict.fromkeys([*self.metrics_names, *sorted(logs)])
        values = [logs[name] for name in names if name in logs]
        return values[0] if len(values) == 1 else values

    def make_train_function(self, force=False):
        if self.replicas == 1:
            super().make_train_function(force)
            return
        if self.train_function is not None and not force:
            return
        step = self.replicated(self.train_step)
        further_steps = self.steps_per_execution - 1

        def run_steps(iterator):
            if further_steps:  # Tracing an empty loop would trace the step a second time.
                for _ in tf.range(further_steps):
                    step(iterator.get_next())
            return step(iterator.get_next())

        self.train_function = run_steps if self.run_eagerly else tf.function(run_steps)

    def make_test_function(self, force=False):
        if self.replicas == 1:
            super().make_test_function(force)
            return
        if self.test_function is not None and not force:
            return
        step = self.replicated(self.test_step)
        if not self.run_eagerly:
            step = tf.function(step)

        def run_steps(iterator):
            logs = None
            for _ in range(self.steps_per_execution):
                try:
                    logs = step(iterator.get_next())
                except (StopIteration, tf.errors.OutOfRangeError):
                    if logs is None:
                        raise
                    break
            return logs

        self.test_function = run_steps

    def replicated(self, step):
        """Returns a function that runs `step` on every replica and averages the logs over them.

        Args:
          step: function of a batch that returns a dict of scalars.
        """
        strategy = self.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def run(batch):
            logs = strategy.run(step, args=(batch,))
            return {name: strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
                    for name, value in logs.items()}

        return run


class TensorBoardOfLogs(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` that writes the learning rate of an epoch's last step.

    The logs contain it. Keras would overwrite it with the learning rate of the next step.
    """

    def _collect_learning_rate(self, logs):
        return logs


def nested_layers(network):
    """Returns all layers of a network, those of nested networks too.

    `keras.Model.layers` contains a nested network but not its layers.
    """
    return list(network._flatten_layers(include_self=False, recursive=True))


@contextlib.contextmanager
def preserved_seeds():
    """Context manager that restores the random states of Python, NumPy, TensorFlow and Keras."""
    python, numpy = random.getstate(), np.random.get_state()
    tensorflow = context.context()
    seed, generator = tensorflow._seed, getattr(tensorflow, "_rng", None)  # None: not used yet.
    attributes = {name: global_state.get_global_attribute(name)
                  for name in ("global_random_seed", "global_seed_generator")}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        tensorflow._seed, tensorflow._rng = seed, generator
        for name, value in attributes.items():
            global_state.set_global_attribute(name, value)


def parameters(network):
    """Returns the weights that are trained unless their layer is frozen, in a fixed order.

    `trainable_variables` leaves out those of frozen layers.
    """
    layers = [network, *nested_layers(network)]
    return [variable for layer in layers for variable in layer._trainable_variables]


def built_for(optimizer):
    """Returns the variables that an optimizer was built for: a list."""
    return list(optimizer._trainable_variables)


def function_of(metric):
    """Returns the function that a `keras.metrics.MeanMetricWrapper` averages."""
    return metric._fn


def variable_index(optimizer, variable):
    """Returns a variable's index among those the optimizer was built with.

    `update_step` can receive a replica's part of a variable, which no list of the optimizer
    contains.
    """
    return optimizer._get_variable_index(variable)


def called_graph(graph, name):
    """Returns the graph of a function that an operation of `graph` calls by name.

    The function can be defined in `graph` or in one that encloses it.

    Args:
      graph: FuncGraph.
      name: str, the value of the operation's attribute of type "func".
    """
    while name not in graph._functions:
        graph = graph.outer_graph
    return graph._functions[name].graph
