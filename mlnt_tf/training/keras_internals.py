"""What Keras 3's `fit` lacks under a strategy of several replicas, and nothing else.

tests/test_replicas.py has a test for each point that fails once Keras can do it:
1. before the first epoch `fit` builds a model symbolically, by calling it on a whole batch, whatever `train_step` takes
   of it; under MultiWorkerMirroredStrategy it also reduces that batch on the host, which fails;
2. under MultiWorkerMirroredStrategy it reduces what a step returns along axis 0, which a scalar does not have;
3. `steps_per_execution` above 1 fails under any strategy.
"""

import keras
import tensorflow as tf


class DistributedModel(keras.Model):
    """A `keras.Model`, built and compiled before `fit`, whose `train_step` and `test_step` return scalars."""

    @property
    def replicas(self):
        return self.distribute_strategy.num_replicas_in_sync

    @property
    def compiles_parts(self):
        """Whether XLA is to compile what a replica computes alone: it cannot take a step in which replicas meet."""
        return self.replicas > 1 and self.jit_compile

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Everything is built."""

    def make_train_function(self, force=False):
        if self.replicas == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            step, more = self.replicated(self.train_step), self.steps_per_execution - 1

            def several(iterator):
                if more:  # otherwise not even traced
                    for _ in tf.range(more):
                        step(iterator.get_next())
                return step(iterator.get_next())

            self.train_function = several if self.run_eagerly else tf.function(several)

    def make_test_function(self, force=False):
        if self.replicas == 1:
            super().make_test_function(force)
        elif self.test_function is None or force:
            step = self.replicated(self.test_step)
            one = step if self.run_eagerly else tf.function(step)

            def several(iterator):
                logs = None
                for _ in range(self.steps_per_execution):
                    try:
                        logs = one(iterator.get_next())
                    except (StopIteration, tf.errors.OutOfRangeError):
                        if logs is None:
                            raise
                        break
                return logs

            self.test_function = several

    def replicated(self, step):
        """The step on every replica: batch to logs, each the mean over the replicas."""
        strategy = self.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def run(batch):
            logs = strategy.run(step, args=(batch,))
            return {name: strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
                    for name, value in logs.items()}

        return run
