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


class NestedSchedule(Schedule):
    """Base class of a schedule whose arguments may be schedules themselves."""

    @classmethod
    def from_config(cls, config):
        """Returns the schedule of `get_config`, whose schedules Keras has turned into dicts."""
        return cls(**{name: keras.saving.deserialize_keras_object(value)
                      if isinstance(value, dict) else value for name, value in config.items()})


@keras.saving.register_keras_serializable(package="mlnt_tf")
class StepDecay(NestedSchedule):
    """A rate that is multiplied by `factor` at each of some steps.

    The paper's learning rate on CIFAR-10 falls to a tenth after epoch 80 of 120.

    Args:
      rate: a number or a schedule.
      boundaries: int, a step, or a sequence of steps. The rate falls at the step itself. None and
        an empty sequence mean no decay.
      factor: float.
    """

    def __init__(self, rate, boundaries, *, factor=0.1):
        if boundaries is None:
            boundaries = ()
        self.rate = rate
        self.boundaries = tuple(boundaries) if hasattr(boundaries, "__iter__") else (boundaries,)
        self.factor = factor

    def __call__(self, step):
        rate = value_at(self.rate, step)
        step = tf.cast(step, tf.float32)
        for boundary in self.boundaries:
            rate = tf.where(step < float(boundary), rate, rate * self.factor)
        return rate

    def get_config(self):
        return {"rate": self.rate, "boundaries": self.boundaries, "factor": self.factor}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class Warmup(NestedSchedule):
    """Rises linearly from 0 to `rate`, then follows a schedule whose step 0 is the end of the rise.

    `keras.optimizers.schedules.CosineDecay` has a warm-up of its own, with the same values.

    Args:
      rate: float, the value at the end of the rise.
      steps: int, at least 1, the length of the rise.
      schedule: Keras schedule.
    """

    def __init__(self, rate, steps, schedule):
        self.rate = rate
        self.steps = steps
        self.schedule = schedule

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rising = self.rate * step / float(self.steps)
        later = self.schedule(tf.maximum(step - float(self.steps), 0.0))
        return tf.where(step < float(self.steps), rising, later)

    def get_config(self):
        return {"rate": self.rate, "steps": self.steps, "schedule": self.schedule}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class Product(NestedSchedule):
    """The product of two rates, numbers or schedules."""

    def __init__(self, first, second):
        self.first = first
        self.second = second

    def __call__(self, step):
        return value_at(self.first, step) * value_at(self.second, step)

    def get_config(self):
        return {"first": self.first, "second": self.second}

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))


def value_at(rate, step):
    """Returns the value of a number or schedule at `step`: a float32 scalar."""
    return rate(step) if callable(rate) else tf.constant(rate, tf.float32)
