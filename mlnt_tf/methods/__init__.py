"""Training methods by name.

A method is a module with these functions. Only `train` is required.

- `train(run)` takes an `experiment.run.Run` and trains the stages. It may add entries to
  results.json through `run.report`.
- `check(config, examples, network)` raises UserError if the run cannot be trained as configured.
- `candidates(stages)` returns the networks among which one is chosen for export (see
  `experiment.select`). By default it is the student of the last stage.
- `planned_epochs(config, examples)` returns {kind of step: number of epochs}; see `Method`.
"""

import dataclasses
import functools
import importlib
import inspect
import typing

import tensorflow as tf

from mlnt_tf.config import (
    METHODS,
    DiskError,
    NonFiniteLoss,
    UserError,
    WorkerLost,
    import_function,
    parse_arguments,
)
from mlnt_tf.config.user_functions import failure
from mlnt_tf.experiment.select import last_student

# Exceptions of a training that the runner explains better than `failure` does.
EXPLAINED_BY_RUNNER = (UserError, NonFiniteLoss, DiskError, WorkerLost, OSError, MemoryError,
                       tf.errors.OpError)


@dataclasses.dataclass(frozen=True)
class Method:
    """The functions of a training method.

    Attributes:
      train: function of an `experiment.run.Run`.
      check: function of (config, examples, network) that raises UserError, or None.
      candidates: function of the list of finished stages. Returns a list of `Candidate`.
      planned_epochs: function of (config, examples). Returns a dict from the kind of step, "cross
        entropy", "mlnt" or "mean teacher", to the number of epochs of such steps, which may be a
        fraction. The kinds differ in cost.
    """

    train: typing.Callable
    check: typing.Callable | None
    candidates: typing.Callable
    planned_epochs: typing.Callable


def find(config):
    """Returns the `Method` that --method names. This imports its module, and TensorFlow with it.

    The optional functions of a method given as package.module:function come from its module too.

    Raises:
      UserError: the function cannot be imported, or does not accept the arguments in --method_args.
    """
    if config.method in METHODS:
        module = importlib.import_module(f"mlnt_tf.methods.{config.method}")
        train = module.train
    else:
        train = _bind(config, import_function("method", config.method))
        train = _explain_failures(config.method, train)
        module = importlib.import_module(config.method.partition(":")[0])
    return Method(
        train=train,
        check=_optional(config, module, "check", 3),
        candidates=_optional(config, module, "candidates", 1) or last_student,
        planned_epochs=_optional(config, module, "planned_epochs", 2) or _plan_one_stage)


def _bind(config, function):
    """Returns a function of the run alone, with the arguments of --method_args bound."""
    arguments = parse_arguments("method_args", config.method_args)
    try:
        signature = inspect.signature(function)
    except ValueError:  # Functions in C may have no signature.
        return functools.partial(function, **arguments)
    try:
        signature.bind(None, **arguments)  # None takes the place of the run.
    except TypeError as error:
        raise UserError(f"--method_args={config.method_args} does not fit --method={config.method} "
                        f"({error}). The function's signature is {signature}. Its first "
                        "argument is the run. Write key=value for each of the others.") from error
    return functools.partial(function, **arguments)


def _explain_failures(name, function):
    """Returns a user's function with each of its exceptions turned into a one-line UserError."""
    @functools.wraps(function)
    def call_or_explain(*args):
        try:
            return function(*args)
        except EXPLAINED_BY_RUNNER:
            raise
        except Exception as error:  # The user's code may raise anything.
            raise failure("method", name, error) from error

    return call_or_explain


def _optional(config, module, name, num_arguments):
    """Returns the module's function of this name, or None.

    A function of the same name in a user's module that takes other arguments is not meant.
    """
    function = getattr(module, name, None)
    if not callable(function):
        return None
    if config.method in METHODS:
        return function
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except (TypeError, ValueError):
        return None
    return _explain_failures(f"{module.__name__}:{name}", function)


def _plan_one_stage(config, examples):
    """Returns the epochs of a method that trains a single stage."""
    del examples
    return {"cross entropy": config.epochs}
