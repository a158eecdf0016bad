"""Schedules of the learning rates, of gamma and of lambda as functions of the step.

Steps count from 0. The paper states lengths in epochs or batches; callers convert them to steps.
"""

import keras
import tensorflow as tf

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="mlnt_tf")
class Ramp(Schedule):
    """Rises from `start` to `end` over `steps` steps, then stays at `end`.

    Let u = min(step / steps, 1). The shapes are

    - "linear": start + u (end - start),
    - "exp": end * exp(-5 (1 - u)^2), as in the released code. `start` is ignored.
    - "none": `end` at every step.

    Args:
      end: float, the value after the ramp.
      steps: number, the length of the ramp in steps. 0 means no ramp.
      shape: "linear", "exp" or "none".
      start: float, the value at step 0 of a linear ramp.

    Raises:
      ValueError: the shape is unknown.
    """

    def __init__(self, end, steps, *, shape="linear", start=0.0):
        if shape not in ("exp", "linear", "none"):
            raise ValueError(f"shape must be 'exp', 'linear' or 'none'. Received: shape={shape!r}")
        self.end = end
        self.steps = steps
        self.shape = shape
        self.start = start

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
    """`rate` before step `boundary`, and `factor * rate` from that step on.

    The paper's learning rate on CIFAR-10 falls to a tenth after epoch 80 of 120.

    Args:
      rate: a number or a schedule.
      boundary: int, a step, or None for no decay.
      factor: float.
    """

    def __init__(self, rate, boundary, *, factor=0.1):
        self.rate = rate
        self.boundary = boundary
        self.factor = factor

    def __call__(self, step):
        rate = value_at(self.rate, step)
        if self.boundary is None:
            return rate
        return tf.where(tf.cast(step, tf.float32) < float(self.boundary), rate, rate * self.factor)

    def get_config(self):
        return {"rate": self.rate, "boundary": self.boundary, "factor": self.factor}


def value_at(rate, step):
    """Returns the value of a number or schedule at `step`: a float32 scalar."""
    return rate(step) if callable(rate) else tf.constant(rate, tf.float32)
