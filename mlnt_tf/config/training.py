"""Settings of the method, the size of the run and the classification update."""

import dataclasses
import math

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import Section, is_given, setting, setting_fields
from mlnt_tf.config.user_functions import check_name, is_function_name, parse_arguments

# The built-in methods. Each is a module of this name in mlnt_tf/methods.
TRAINED_METHODS = (
    "mlnt", "cross_entropy", "cross_entropy_ema", "cross_entropy_iterative", "mean_teacher",
    "forward", "joint_optimization", "cnn_crf", "elr", "gce")
LINEAR_METHODS = ("lda", "logistic")  # Classifiers of scikit-learn, for --freeze=body.
METHODS = (*TRAINED_METHODS, *LINEAR_METHODS)
# Their loss is not cross entropy.
OTHER_LOSSES = ("gce", "forward", "cnn_crf", "joint_optimization")
DEFAULT_DECAY = "-1"  # The learning rate falls after two thirds of the epochs.
# The values of --lr_schedule that read a flag.
READERS = {
    "learning_rate_decay_epochs": ("step",), "learning_rate_decay_factor": ("step",),
    "lr_restart_epochs": ("cosine_restarts",),
    "lr_floor": ("cosine", "cosine_restarts", "triangular")}


@dataclasses.dataclass(frozen=True)
class RunSettings(Section):
    """Method and size of the run"""

    method: str = setting(
        "mlnt", f"Training method: {', '.join(METHODS)}, or package.module:function.")
    method_args: str = setting(
        "", "Arguments of a method given as package.module:function: key=value,key=value. Values "
        "are Python literals or text.")
    epochs: int = setting(
        30, "Number of epochs. Methods with iterations train this many in each iteration.",
        minimum=1)
    steps_per_epoch: int = setting(
        0, "Number of steps per epoch; 0 means one pass over the training examples.", minimum=0)
    batch_size: int = setting(128, "k: number of examples in a global batch.", minimum=1)
    seed: int = setting(
        0, "Seed of the weights, the noise, the held-out examples, their order and every random "
        "draw.", minimum=0, maximum=2**31 - 1)

    def check(self):
        check_name("method", self.method, METHODS)
        if self.method_args and not is_function_name(self.method):
            raise UserError(f"--method_args={self.method_args} needs a method given as "
                            f"package.module:function, but --method={self.method} is built in. Use "
                            "its own flags, which --help lists.")
        parse_arguments("method_args", self.method_args)

    def ineffective(self):
        return _unread_without_steps(self, ("epochs", "steps_per_epoch"))


@dataclasses.dataclass(frozen=True)
class WarmUpSettings(Section):
    """Cross-entropy training, as a warm-up or on its own"""

    METHODS = ("mlnt", "cross_entropy", "cross_entropy_ema", "forward", "cnn_crf")

    pretrain_epochs: int = setting(
        0, "Number of epochs of cross-entropy training: the warm-up of mlnt, the complete training "
        "of cross_entropy and cross_entropy_ema, and the stage from which forward and cnn_crf "
        "estimate the transition matrix; 0 means --epochs.", minimum=0)

    @property
    def baseline_epochs(self):
        """Number of epochs of cross-entropy training."""
        return self.pretrain_epochs or self.epochs


@dataclasses.dataclass(frozen=True)
class UpdateSettings(Section):
    """Classification update"""

    learning_rate: float = setting(0.2, "beta: learning rate.", above=0)
    head_learning_rate: float = setting(
        0.0, "Learning rate of the last layer, which follows the same schedule; 0 means "
        "--learning_rate.", minimum=0)
    optimizer: str = setting(
        "sgd", "SGD with momentum in PyTorch's form, or Keras's AdamW.", choices=("sgd", "adamw"))
    momentum: float = setting(
        0.9, "Momentum of the classification update, for sgd.", minimum=0, below=1)
    nesterov: bool = setting(False, "Use Nesterov's momentum, for sgd.")
    weight_decay: float = setting(
        1e-4, "Weight decay. For sgd it is coupled: this factor times the weight is added to the "
        "gradient. For adamw it is decoupled.", minimum=0)

    def ineffective(self):
        return _unread_without_steps(self, setting_fields(UpdateSettings))

    def check(self):
        if self.nesterov and self.optimizer != "sgd":
            raise UserError(f"--nesterov has no effect with --optimizer={self.optimizer}. Omit it, "
                            "or use --optimizer=sgd.")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov needs a momentum, but --momentum=0. Raise --momentum.")
        if self.optimizer != "sgd" and is_given(self, "momentum"):
            raise UserError(f"--momentum={self.momentum} has no effect with --optimizer="
                            f"{self.optimizer}. Omit it, or use --optimizer=sgd.")
        if self.head_learning_rate and self.freeze == "body":
            raise UserError(f"--head_learning_rate={self.head_learning_rate} has no effect with "
                            "--freeze=body, which trains the last layer alone. Set "
                            "--learning_rate.")


@dataclasses.dataclass(frozen=True)
class ScheduleSettings(Section):
    """Schedule of the learning rate"""

    lr_schedule: str = setting(
        "step", "Learning rate over the epochs: step falls by a factor after given epochs, cosine "
        "falls to --lr_floor at the end, cosine_restarts does so every --lr_restart_epochs, "
        "triangular rises during --warmup_epochs and falls linearly to --lr_floor.",
        choices=("step", "cosine", "cosine_restarts", "triangular"))
    learning_rate_decay_epochs: str = setting(
        DEFAULT_DECAY, "Number of epochs after which the learning rate of step falls, or a list "
        "such as 40,80; -1 means two thirds of --epochs, 0 means never.")
    learning_rate_decay_factor: float = setting(
        10.0, "Factor by which the learning rate of step falls.", above=1)
    lr_restart_epochs: float = setting(
        0.0, "Number of epochs between the restarts of cosine_restarts.", minimum=0)
    lr_floor: float = setting(
        0.0, "Lowest learning rate of cosine, cosine_restarts and triangular.", minimum=0)
    warmup_epochs: float = setting(
        0.0, "Number of epochs in which the learning rate rises linearly from 0, before the "
        "schedule begins; 0 means none, or a quarter of --epochs for triangular. This and the "
        "other lengths refer to --epochs and scale with the epochs of a stage.", minimum=0)

    @property
    def decay_epochs(self):
        """Numbers of epochs after which the learning rate falls: a tuple, empty for never.

        The default is two thirds of the epochs, like the paper's 80 of 120.
        """
        if self.learning_rate_decay_epochs == DEFAULT_DECAY:
            return (self.epochs * 2 / 3,)
        epochs = _parse_epochs(self.learning_rate_decay_epochs)
        return () if epochs == (0,) else epochs

    def defaults(self):
        """Returns the decay epochs in one form, so that "40" and "40.0" are the same run."""
        epochs = _parse_epochs(self.learning_rate_decay_epochs)
        text = DEFAULT_DECAY if epochs == (-1,) else ",".join(map(str, epochs))
        return {"learning_rate_decay_epochs": text}

    def ineffective(self):
        return _unread_without_steps(self, setting_fields(ScheduleSettings))

    def check(self):
        epochs = _parse_epochs(self.learning_rate_decay_epochs)
        is_rising = all(one < other for one, other in zip((0.0, *epochs), epochs))
        if epochs not in ((-1,), (0,)) and not is_rising:
            raise UserError("--learning_rate_decay_epochs="
                            f"{self.learning_rate_decay_epochs} must be -1, 0, or a list of rising "
                            "positive numbers, such as 40,80.")
        self._refuse_flags_of_other_schedules()
        if self.lr_schedule == "cosine_restarts" and not self.lr_restart_epochs:
            raise UserError("--lr_schedule=cosine_restarts needs the number of epochs between two "
                            "restarts. Set --lr_restart_epochs, for example to 10.")
        if self.lr_floor >= self.learning_rate:
            raise UserError(f"--lr_floor={self.lr_floor} must be below --learning_rate="
                            f"{self.learning_rate}.")
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"--warmup_epochs={self.warmup_epochs} must be less than --epochs="
                            f"{self.epochs}.")
        first = self.decay_epochs[:1] if self.lr_schedule == "step" else ()
        if first and first[0] <= self.warmup_epochs:
            raise UserError(f"--warmup_epochs={self.warmup_epochs} must be less than the first "
                            f"decay of the learning rate, after {first[0]:g} epochs. Lower it, or "
                            "raise --learning_rate_decay_epochs.")

    def _refuse_flags_of_other_schedules(self):
        """Raises UserError for a given flag that --lr_schedule does not read."""
        for name, schedules in READERS.items():
            if is_given(self, name) and self.lr_schedule not in schedules:
                raise UserError(f"--{name}={getattr(self, name)} has no effect with --lr_schedule="
                                f"{self.lr_schedule}. Omit it, or use --lr_schedule="
                                f"{' or '.join(schedules)}.")


@dataclasses.dataclass(frozen=True)
class LossSettings(Section):
    """Classification loss and the end of training"""

    label_smoothing: float = setting(
        0.0, "Fraction of each label's weight that the classification loss spreads evenly over all "
        "classes. It needs a loss of cross entropy, which gce, forward, cnn_crf and "
        "joint_optimization do not have.", minimum=0, below=1)
    class_balance: str = setting(
        "none", "Weigh the classification loss of each example by the inverse frequency of its "
        "given class among the selected examples (weights), with a mean weight of 1.",
        choices=("none", "weights"))
    early_stopping: int = setting(
        0, "End a stage once no network's validation accuracy has improved for this many epochs; 0 "
        "means never. Schedules and ramps keep the lengths that follow from --epochs.", minimum=0)

    def ineffective(self):
        return _unread_without_steps(self, setting_fields(LossSettings))

    def check(self):
        if not self.label_smoothing:
            return
        replaced = f"--method={self.method}" if self.method in OTHER_LOSSES else ""
        if self.is_classification_loss("gce"):
            replaced = "--classification_loss=gce"
        if replaced:
            raise UserError(f"--label_smoothing={self.label_smoothing} needs a loss of cross "
                            f"entropy, which {replaced} replaces by another one. Omit it.")


def _unread_without_steps(config, names):
    """Returns `Section.ineffective` for settings that only training steps read."""
    if config.method not in LINEAR_METHODS:
        return {}
    return {name: f"with --method={config.method}, which has no training steps" for name in names}


def _parse_epochs(text):
    """Returns the numbers in a list such as "40,80": a tuple of float.

    Raises:
      UserError: a part is not a finite number.
    """
    try:
        epochs = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        epochs = (math.nan,)
    if not all(map(math.isfinite, epochs)):
        raise UserError(f"--learning_rate_decay_epochs={text} is not a list of numbers. Write -1, "
                        "0 or epochs such as 40,80.")
    return epochs
