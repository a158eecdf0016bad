"""Rates as functions of the step, for a Keras optimizer or a plain call; steps count from 0.

The paper gives lengths in epochs or batches; whoever builds a schedule turns them into steps.
"""

import keras
import tensorflow as tf

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="mlnt_tf")
class Ramp(Schedule):
    """Rises from `start` to `end` over `steps`, then stays.

    With u = step / steps, at most 1: "exp" gives end * exp(-5 (1 - u)^2), as the released code (start is unused);
    "linear" gives start + u (end - start); "none" is `end` throughout.
    """

    def __init__(self, end, steps, *, shape="linear", start=0.0):
        if shape not in ("exp", "linear", "none"):
            raise ValueError(f"shape must be 'exp', 'linear' or 'none'. Received: shape={shape!r}")
        self.end, self.steps, self.shape, self.start = end, steps, shape, start

    def __call__(self, step):
        if self.shape == "none" or self.steps <= 0:
            return tf.constant(self.end, tf.float32)
        u = tf.minimum(tf.cast(step, tf.float32) / float(self.steps), 1.0)
        if self.shape == "exp":
            return self.end * tf.exp(-5.0 * tf.square(1.0 - u))
        return self.start + u * (self.end - self.start)

    def get_config(self):
        return {"end": self.end, "steps": self.steps, "shape": self.shape, "start": self.start}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class StepDecay(Schedule):
    """`rate` (a number or a schedule) before step `boundary`, `factor` times it from there on.

    The paper's learning rate: a tenth after epoch 80 of 120. `boundary=None` never falls.
    """

    def __init__(self, rate, boundary, *, factor=0.1):
        self.rate, self.boundary, self.factor = rate, boundary, factor

    def __call__(self, step):
        rate = self.rate(step) if callable(self.rate) else tf.constant(self.rate, tf.float32)
        if self.boundary is None:
            return rate
        return tf.where(tf.cast(step, tf.float32) < float(self.boundary), rate, rate * self.factor)

    def get_config(self):
        return {"rate": self.rate, "boundary": self.boundary, "factor": self.factor}


def value_at(rate, step):
    """The rate at `step`, whether `rate` is a number or a schedule: float32 scalar."""
    return rate(step) if callable(rate) else tf.constant(rate, tf.float32)
