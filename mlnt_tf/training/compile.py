"""The one place where settings become optimizers and schedules."""

import keras

from mlnt_tf.training import schedules
from mlnt_tf.training.optimizers import CoupledSGD, HeadRateAdamW

TRIANGULAR_RISE = 0.25  # Fraction of a stage in which a triangular schedule rises by default.


def compile_model(model, config, *, learning_rate, **meta):
    """Compiles a model with the optimizer settings of a Config, and returns it.

    Args:
      model: a `CrossEntropy` model.
      config: a resolved Config.
      learning_rate: float or schedule, beta.
      **meta: arguments that the model's class adds to `compile`, for example `meta_rate` of `MLNT`.
    """
    loss = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
    model.compile(
        new_optimizer(model, config, learning_rate),
        jit_compile=config.jit_compile == "true", steps_per_execution=config.steps_per_execution,
        **loss, **meta)
    return model


def new_optimizer(model, config, learning_rate):
    """Returns the optimizer of the classification update.

    Args:
      model: a `CrossEntropy` model.
      config: `UpdateSettings`, or a Config.
      learning_rate: float or schedule. That of the last layer is this one times
        --head_learning_rate / --learning_rate.
    """
    head = {}
    if config.head_learning_rate:
        head = {"head_variables": model.head_variables,
                "head_factor": config.head_learning_rate / config.learning_rate}
    if config.optimizer == "sgd":
        return CoupledSGD(learning_rate, momentum=config.momentum, nesterov=config.nesterov,
                          coupled_decay=config.weight_decay, **head)
    if head:
        return HeadRateAdamW(learning_rate, decoupled_decay=config.weight_decay, **head)
    return keras.optimizers.AdamW(learning_rate, weight_decay=config.weight_decay)


def learning_rate_schedule(config, steps_per_epoch, epochs, *, rate=None, decays_halfway=False):
    """Returns the schedule of the learning rate that --lr_schedule names.

    Args:
      config: a Config. Its lengths in epochs refer to --epochs.
      steps_per_epoch: int.
      epochs: int, number of epochs of the stage. The lengths are scaled with it.
      rate: float, the highest learning rate. By default --learning_rate. --lr_floor is scaled with
        it.
      decays_halfway: bool, whether a single decay of a step schedule is preceded by one halfway to
        it.

    Returns:
      Keras schedule of the step.
    """
    rate = config.learning_rate if rate is None else rate
    floor = config.lr_floor / config.learning_rate  # Relative to the highest rate.
    total = epochs * steps_per_epoch

    def steps(length):
        return round(length / config.epochs * epochs * steps_per_epoch)

    warmup = min(steps(config.warmup_epochs), total - 1)  # Rounding may reach the last step.
    if config.lr_schedule == "cosine":
        return _cosine(rate, floor, warmup=warmup, decay=total - warmup)
    if config.lr_schedule == "cosine_restarts":
        schedule = keras.optimizers.schedules.CosineDecayRestarts(
            rate, max(steps(config.lr_restart_epochs), 1), t_mul=1.0, alpha=floor)
    elif config.lr_schedule == "triangular":
        warmup = warmup or round(TRIANGULAR_RISE * total)
        schedule = keras.optimizers.schedules.PolynomialDecay(
            rate, total - warmup, end_learning_rate=floor * rate)
    else:
        boundaries = [steps(length) for length in config.decay_epochs]
        if decays_halfway and len(boundaries) == 1:
            boundaries.insert(0, round(boundaries[0] / 2))
        schedule = schedules.StepDecay(rate, [boundary - warmup for boundary in boundaries],
                                       factor=1 / config.learning_rate_decay_factor)
    return schedules.Warmup(rate, warmup, schedule) if warmup else schedule


def _cosine(rate, floor, *, warmup, decay):
    """Returns Keras's cosine decay from `rate` to `floor * rate`, after a linear rise from 0."""
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, decay, alpha=floor)
    return keras.optimizers.schedules.CosineDecay(0.0, decay, alpha=floor, warmup_target=rate,
                                                  warmup_steps=warmup)


def follow_learning_rate(rate, config, steps_per_epoch, epochs):
    """Returns a rate that is multiplied by the learning rate relative to --learning_rate.

    Args:
      rate: float or schedule.
      config, steps_per_epoch, epochs: see `learning_rate_schedule`.
    """
    if config.lr_schedule == "step" and not config.warmup_epochs:
        decay = learning_rate_schedule(config, steps_per_epoch, epochs)
        return schedules.StepDecay(rate, decay.boundaries, factor=decay.factor)
    relative = learning_rate_schedule(config, steps_per_epoch, epochs, rate=1.0)
    return schedules.Product(rate, relative)
