"""The one place where settings become optimizers and schedules."""

from mlnt_tf.training import schedules


def compile_model(model, config, *, learning_rate, **meta):
    """Compiles a model with the optimizer settings of a Config, and returns it.

    Args:
      model: a `CrossEntropy` model.
      config: a resolved Config.
      learning_rate: float or schedule, beta.
      **meta: arguments that the model's class adds to `compile`, for example `meta_rate` of `MLNT`.
    """
    model.compile(
        learning_rate=learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
        jit_compile=config.jit_compile == "true", steps_per_execution=config.steps_per_execution,
        **meta)
    return model


def learning_rate_schedule(config, steps_per_epoch, epochs):
    """Returns the schedule of the learning rate, which decays to a tenth once.

    Args:
      config: a Config. Its decay epoch refers to --epochs.
      steps_per_epoch: int.
      epochs: int, number of epochs of the stage. The decay epoch is scaled with it.
    """
    decay = config.decay_epochs
    boundary = None
    if decay is not None:
        boundary = round(decay / config.epochs * epochs * steps_per_epoch)
    return schedules.StepDecay(config.learning_rate, boundary)
