"""The optimizers that the arguments of a model's `compile` describe."""

import keras

from mlnt_tf.training.optimizers import CoupledSGD


def classification_optimizer(optimizer, *, learning_rate, momentum, weight_decay):
    """Returns the optimizer of the classification update.

    Args:
      optimizer: what `keras.Model.compile` takes, or None for `CoupledSGD` with the other
        arguments.
      learning_rate: a number or a Keras schedule of the step, or None.
      momentum, weight_decay: float, or None for the defaults 0.9 and 0.

    Raises:
      ValueError: neither or both of the two forms are given, or Keras does not know the optimizer.
    """
    own = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    given = [f"{name}={value!r}" for name, value in own.items() if value is not None]
    if optimizer is None:
        if learning_rate is None:
            raise ValueError("compile needs an optimizer, for example optimizer='adam', or "
                             "learning_rate= for SGD in PyTorch's form. "
                             f"Received: {', '.join(given) or 'neither'}")
        return CoupledSGD(learning_rate, momentum=0.9 if momentum is None else momentum,
                          coupled_decay=weight_decay or 0.0)
    if given:
        raise ValueError("optimizer= excludes learning_rate=, momentum= and weight_decay=, which "
                         f"describe SGD in PyTorch's form. Received: {optimizer=}, "
                         f"{', '.join(given)}")
    return _get(optimizer)


def meta_optimizer(optimizer, *, meta_rate, meta_momentum):
    """Returns the optimizer of the meta update.

    Args:
      optimizer: a number or a Keras schedule, which is the rate of plain SGD, or what
        `keras.Model.compile` takes. None means `CoupledSGD` with the other arguments.
      meta_rate: a number or a Keras schedule of the step, or None for 0.4.
      meta_momentum: float, or None for 0.

    Raises:
      ValueError: both forms are given, or Keras does not know the optimizer.
    """
    own = {"meta_rate": meta_rate, "meta_momentum": meta_momentum}
    given = [f"{name}={value!r}" for name, value in own.items() if value is not None]
    if optimizer is not None and given:
        raise ValueError("meta_optimizer= excludes meta_rate= and meta_momentum=. "
                         f"Received: meta_optimizer={optimizer!r}, {', '.join(given)}")
    if optimizer is None:
        optimizer = 0.4 if meta_rate is None else meta_rate
    is_rate = isinstance(optimizer, keras.optimizers.schedules.LearningRateSchedule)
    if is_rate or isinstance(optimizer, (int, float)):
        return CoupledSGD(optimizer, momentum=meta_momentum or 0.0, name="meta_sgd")
    return _get(optimizer)


def _get(optimizer):
    """Returns a Keras optimizer. Raises ValueError for one that replaces the weights at the end."""
    optimizer = keras.optimizers.get(optimizer)
    if getattr(optimizer, "use_ema", False):
        raise ValueError("use_ema=True is not supported, because the teacher is the moving average "
                         f"of the weights. Received: {type(optimizer).__name__}(use_ema=True)")
    return optimizer
