"""Every setting of a run: its name, default, range and meaning. Standard library only."""

import dataclasses
import importlib
import math
import pathlib
import traceback


class UserError(ValueError):
    """A mistake the user can mend: one line that names the flag or file, the value and the fix."""


class NonFiniteLoss(ArithmeticError):
    """A loss that is nan or infinite: the message names the step and the loss."""


class Terminated(SystemExit):
    """SIGTERM came: the process ends with 143 (128 + 15), as one killed by it does."""

    def __init__(self):
        super().__init__(143)


def setting(default, help, *, choices=None, above=None, minimum=None, maximum=None, below=None):
    """A field of `Config`: the flag of the same name takes its default, range and help from here."""
    limits = dict(choices=choices, above=above, minimum=minimum, maximum=maximum, below=below)
    return dataclasses.field(default=default, metadata=dict(help=help, **limits))


MODELS = ("cnn", "preact_resnet8", "preact_resnet14", "preact_resnet20", "preact_resnet32")
# --method and the module that trains by it: its `train(run)`; see mlnt_tf/iterate.py.
METHODS = {
    "mlnt": "mlnt_tf.methods.iterations",
    "cross_entropy": "mlnt_tf.methods.cross_entropy",
    "cross_entropy_ema": "mlnt_tf.methods.cross_entropy_ema",
    "cross_entropy_iterative": "mlnt_tf.methods.cross_entropy_iterative",
    "forward": "mlnt_tf.methods.forward",
    "joint_optimization": "mlnt_tf.methods.joint_optimization",
    "cnn_crf": "mlnt_tf.methods.cnn_crf",
    "elr": "mlnt_tf.methods.elr",
    "gce": "mlnt_tf.methods.gce",
}
TRANSITIONS = ("auto", "true", "estimated")
DATASETS = ("digits", "cifar10", "cifar10_n", "clothing1m", "folder", "csv")
# The columns of CIFAR-10N's human labels, and the shares of them that are wrong (Wei et al. 2022, table 1).
CIFAR10_N_LABELS = {"aggre": 0.0903, "worse": 0.4021, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764}


# Flags that change nothing of a run's result.
WITHOUT_EFFECT = ("output_dir", "resume", "download", "checkpoint_every", "strategy", "num_devices", "logical_devices")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one run, under the names of the flags; the defaults are those of configs/digits.flags.

    Raises:
      UserError: a value outside its choices or range, or two that contradict each other.
    """

    # Data
    dataset: str = setting("digits", f"What to train on: {', '.join(DATASETS)}, tfds:NAME or package.module:function.")
    data_dir: str = setting("", "The folder, the table of csv, or where TFDS data sets lie; empty means TFDS's default.")
    download: bool = setting(False, "Let TFDS download the data set when it is not there.")
    csv_columns: str = setting("path,label,split,true_label", "Columns of the table of csv: path, label and, where it has "
                               "them, split and true label.")
    class_names: str = setting("", "File of the classes' names, one a line, where csv numbers its labels.")
    use_clean_train: bool = setting(False, "Train on Clothing1M's clean training images too.")
    max_bad_images: float = setting(0.001, "Share of images that may be left out as they do not decode.", minimum=0,
                                    maximum=1)
    train_examples: int = setting(0, "Train on this many of the training examples; 0 means all.", minimum=0)
    validation_fraction: float = setting(0.1, "Share of the training split held out for validation.", above=0, below=1)
    test_fraction: float = setting(0.1, "Share of the training split set apart where there is no test split, the same "
                                   "for every seed.", above=0, below=1)
    validation_labels: str = setting("clean", "Labels of the validation examples.", choices=("clean", "noisy"))
    image_size: int = setting(0, "Resize images to this height and width; 0 leaves them as they are.", minimum=0)
    crop_size: int = setting(0, "Crop the middle of this height and width, or with --augment a random part; 0 means "
                             "the whole image.", minimum=0)
    augment: bool = setting(False, "Random crop (of the image padded by 4, unless --crop_size cuts one out) and flip.")
    # Noise
    noise: str = setting("auto", "none, symmetric, asymmetric or matrix:FILE (row = true class, column = given); for "
                         "cifar10_n aggre, worse, random1, random2 or random3; auto is symmetric for digits and cifar10, "
                         "none for data that bring their own.")
    noise_rate: float = setting(0.5, "r: the probability that a label is redrawn.", minimum=0, maximum=1)
    noise_sampling: str = setting("exact", "Exact fractions of each class, or independent draws.",
                                  choices=("exact", "bernoulli"))
    symmetric_includes_true: bool = setting(True, "Symmetric noise redraws over all classes, the true one included.")
    # Network
    model: str = setting("cnn", f"Network: {', '.join(MODELS)}, resnet50, keras:NAME or package.module:function.")
    pretrained_weights: str = setting("none", "Weights resnet50 and keras:NAME begin with: none, imagenet or a file.")
    width: int = setting(32, "Channels of the first stage.", minimum=1)
    # Size of the run
    method: str = setting("mlnt", "Training method.", choices=METHODS)
    iterations: int = setting(3, "Iterations of mentor, filter and training (paper section 3.3).", minimum=1)
    epochs: int = setting(30, "Epochs of each iteration.", minimum=1)
    pretrain_epochs: int = setting(0, "Epochs of the cross-entropy training; 0 means as many as --epochs.", minimum=0)
    steps_per_epoch: int = setting(0, "Steps of an epoch; 0 means one pass over the training examples.", minimum=0)
    batch_size: int = setting(128, "k: examples of a (global) batch.", minimum=1)
    seed: int = setting(0, "Seeds the weights, the noise, the held-out examples, the order and every draw.", minimum=0,
                        maximum=2**31 - 1)
    # Meta-learning
    num_synthetic: int = setting(10, "M: synthetic label sets of a step; 0 is cross entropy.", minimum=0, maximum=10_000)
    transfer_ratio: float = setting(0.5, "rho/k: share of the batch whose label is replaced.", minimum=0, maximum=1)
    num_neighbors: int = setting(10, "Nearest neighbours a label is drawn from.", minimum=1)
    neighbor_scope: str = setting("dataset", "Neighbours within the whole training set or within the batch (paper).",
                                  choices=("dataset", "batch"))
    neighbor_backend: str = setting("auto", "Search for --neighbor_scope=dataset; auto takes ScaNN where it works.",
                                    choices=("auto", "scann", "exact"))
    neighbor_features: str = setting("penultimate", "Features that neighbours are near in.",
                                     choices=("penultimate", "logits"))
    inner_rate: float = setting(0.2, "alpha: step size of the inner gradient step.", minimum=0)
    meta_rate: float = setting(1.6, "eta: meta learning rate after its ramp.", minimum=0)
    meta_ramp: str = setting("exp", "Shape of the ramp of eta, in iteration 1 alone.", choices=("exp", "linear", "none"))
    meta_ramp_epochs: float = setting(-1.0, "Length of the ramps of eta and gamma; -1 means a sixth of --epochs.",
                                      minimum=-1)
    meta_rate_decay: str = setting("constant", "After the ramp eta stays, or falls with the learning rate.",
                                   choices=("constant", "follow"))
    meta_momentum: float = setting(0.0, "Momentum of the meta update.", minimum=0, below=1)
    meta_order: str = setting("first", "The inner gradient is a constant, or is differentiated through.",
                              choices=("first", "full"))
    fast_weights: str = setting("all", "What the inner step moves: all weights (paper), the last stage, or the last "
                                "layer alone, which is far cheaper.", choices=("all", "last_stage", "head"))
    meta_every: int = setting(1, "A meta update every so many steps; the others are cross entropy.", minimum=1)
    synthetic_parallelism: int = setting(1, "How many of the M run side by side: the same numbers, in more memory.",
                                         minimum=1)
    update_mode: str = setting("sequential", "Classification gradient at the new weights, or both at the old.",
                               choices=("sequential", "joint"))
    # Classification update
    learning_rate: float = setting(0.2, "beta: learning rate.", above=0)
    learning_rate_decay_epochs: float = setting(-1.0, "The rate falls to a tenth after these epochs; -1 means two "
                                                "thirds of --epochs, 0 never.", minimum=-1)
    momentum: float = setting(0.9, "Momentum of the classification update.", minimum=0, below=1)
    weight_decay: float = setting(1e-4, "Coupled weight decay.", minimum=0)
    # Teacher and mentor
    ema_decay_start: float = setting(0.99, "gamma during the ramp.", minimum=0, below=1)
    ema_decay: float = setting(0.99, "gamma after the ramp.", minimum=0, below=1)
    ema_ramp: str = setting("each", "gamma has its ramp in each iteration, or in the first alone (paper, Clothing1M).",
                            choices=("each", "first"))
    teacher_statistics: str = setting("own", "Batch-norm statistics of the teacher: of its own forward pass, or "
                                      "averaged like its weights.", choices=("own", "averaged"))
    tau: float = setting(0.3, "A sample is kept if the mentor gives its label a probability above this.",
                         minimum=0, below=1)
    lambda_max: float = setting(0.5, "Weight of the teacher in the merged target at the end of an iteration.",
                                minimum=0, maximum=1)
    # Other methods
    transition_matrix: str = setting("auto", "T of forward and cnn_crf, p(given | true): true, estimated or a file of a row "
                                     "for each true class; auto is true where --noise is drawn here, else estimated.")
    gce_q: float = setting(0.7, "q of gce: near 0 it is cross entropy, at 1 the mean absolute error.", above=0,
                           maximum=1)
    elr_lambda: float = setting(3.0, "lambda of elr: strength of the pull; 0 is cross entropy.", minimum=0)
    elr_beta: float = setting(0.7, "beta of elr: of the average of each example's predictions.", minimum=0, below=1)
    joint_alpha: float = setting(1.2, "alpha of joint_optimization: weight of the prior loss.", minimum=0)
    joint_beta: float = setting(0.8, "beta of joint_optimization: weight of the entropy loss.", minimum=0)
    joint_labels: str = setting("soft", "Labels of joint_optimization: the mean of predictions, or its likeliest class.",
                                choices=("soft", "hard"))
    joint_epochs: int = setting(0, "Epochs of stage 1 of joint_optimization; 0 means five thirds of --epochs, which are "
                                "stage 2's (paper: 200 and 120).", minimum=0)
    joint_start_epoch: int = setting(0, "Labels of joint_optimization are renewed from the end of this epoch on; 0 means "
                                     "35 % of stage 1 (paper: 70 of 200).", minimum=0)
    joint_rate: float = setting(0.0, "Learning rate of stage 1 of joint_optimization; 0 means 0.4 of --learning_rate, "
                                "which is stage 2's (paper: 0.08 and 0.2).", minimum=0)
    crf_form: str = setting("analytic", "cnn_crf with true and given label independent given the image, or joined.",
                            choices=("analytic", "exact"))
    num_clean_labels: int = setting(1000, "Training examples whose true label cnn_crf is given, as many of each class; "
                                    "fewer where there are fewer.", minimum=0)
    # How it runs
    device: str = setting("auto", "Device to run on.", choices=("auto", "cpu", "gpu"))
    precision: str = setting("auto", "auto takes bfloat16 where the device multiplies it natively.",
                             choices=("auto", "float32", "mixed_bfloat16"))
    strategy: str = setting("auto", "How devices share the work: auto is multi_worker where TF_CONFIG names several, "
                            "mirrored where there are several devices.",
                            choices=("auto", "single", "mirrored", "multi_worker"))
    num_devices: int = setting(0, "GPUs of this host to use; 0 means all.", minimum=0)
    logical_devices: int = setting(0, "Rehearse on this many devices, made of the CPU.", minimum=0, maximum=64)
    inner_reduce: str = setting("global", "Replicas take the inner step by their mean gradient, as one device would, "
                                "or each by its own, which spares M of M + 2 all-reduces.", choices=("global", "replica"))
    sync_batch_norm: bool = setting(False, "Batch statistics over all replicas, as one device has them.")
    jit_compile: str = setting("auto", "XLA; auto means on GPU only.", choices=("auto", "true", "false"))
    steps_per_execution: int = setting(1, "Steps run in one call of the compiled function.", minimum=1)
    output_dir: str = setting("runs/digits", "Where everything of the run lies.")
    resume: str = setting("auto", "Go on where the same run was interrupted, or refuse a directory in use.",
                          choices=("auto", "never"))
    checkpoint_every: int = setting(0, "Steps between checkpoints within an epoch; each epoch's end has one anyway.",
                                    minimum=0)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_limits(field, getattr(self, field.name))
        check_name("dataset", self.dataset, DATASETS, "tfds:")
        check_name("model", self.model, (*MODELS, "resnet50"), "keras:")
        if self.noise == "auto" and self.dataset != "cifar10_n":
            object.__setattr__(self, "noise", "symmetric" if self.dataset in ("digits", "cifar10") else "none")
        check_noise(self)
        if self.transition_matrix not in TRANSITIONS and not pathlib.Path(self.transition_matrix).is_file():
            raise UserError(f"--transition_matrix={self.transition_matrix} is not known: choose one of "
                            f"{', '.join(TRANSITIONS)}, or a .csv, .txt or .npy file that is there.")
        if self.crop_size and self.image_size and self.crop_size > self.image_size:
            raise UserError(f"--crop_size={self.crop_size} is above --image_size={self.image_size}: lower it.")
        if self.method == "joint_optimization" and self.joint_start > self.joint_stage_epochs:
            raise UserError(f"--joint_start_epoch={self.joint_start} is beyond the {self.joint_stage_epochs} epochs of stage "
                            "1, so that no label would be renewed: lower it or raise --joint_epochs.")
        if not self.output_dir:
            raise UserError("--output_dir= is empty: name a directory.")
        if self.method == "mlnt" and self.num_synthetic and self.num_neighbors >= self.batch_size \
                and self.neighbor_scope == "batch":
            raise UserError(
                f"--num_neighbors={self.num_neighbors} needs a batch above {self.num_neighbors}, got "
                f"--batch_size={self.batch_size}: raise --batch_size or lower --num_neighbors.")

    @property
    def resized(self):
        """(height, width) to resize images to, or None."""
        return (self.image_size, self.image_size) if self.image_size else None

    @property
    def baseline_epochs(self):
        """Epochs of the cross-entropy training that precedes the iterations."""
        return self.pretrain_epochs or self.epochs

    @property
    def joint_stage_epochs(self):
        """Epochs of stage 1 of joint optimization."""
        return self.joint_epochs or round(self.epochs * 5 / 3)

    @property
    def joint_start(self):
        """The epoch, from 1, at whose end joint optimization renews the labels for the first time."""
        return self.joint_start_epoch or max(round(0.35 * self.joint_stage_epochs), 1)

    @property
    def ramp_epochs(self):
        """Epochs of the ramps of eta and gamma: a sixth of the epochs, as the paper's 20 of 120, unless set."""
        return self.epochs / 6 if self.meta_ramp_epochs < 0 else self.meta_ramp_epochs

    @property
    def decay_epochs(self):
        """Epochs before the learning rate falls: two thirds, as the paper's 80 of 120, unless set; None is never."""
        if self.learning_rate_decay_epochs < 0:
            return self.epochs * 2 / 3
        return self.learning_rate_decay_epochs or None


def _check_limits(field, value):
    limits, name = field.metadata, field.name
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(f"--{name}={value} is not known: choose one of {', '.join(limits['choices'])}.")
    low, high = limits["minimum"], limits["maximum"]
    above, below = limits["above"], limits["below"]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name}={value} is not a finite number: give one.")
    if low is not None and value < low:
        raise UserError(f"--{name}={value} is too small: it must be at least {low}.")
    if high is not None and value > high:
        raise UserError(f"--{name}={value} is too large: it must be at most {high}.")
    if above is not None and value <= above:
        raise UserError(f"--{name}={value} is too small: it must be above {above}.")
    if below is not None and value >= below:
        raise UserError(f"--{name}={value} is too large: it must be below {below}.")


def check_name(flag, value, known, prefix):
    """Raises UserError unless a value is known, has the prefix and a name, or is package.module:function."""
    module, colon, function = value.partition(":")
    named = value.startswith(prefix) and len(value) > len(prefix)
    if value in known or named or (
            colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        return
    raise UserError(f"--{flag}={value} is not known: choose one of {', '.join(known)}, {prefix}NAME or "
                    "package.module:function.")


def call_function(flag, name, **arguments):
    """What the function that --flag=package.module:function names returns for these arguments.

    Raises:
      UserError: it cannot be imported, or fails.
    """
    module, _, function = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"--{flag}={name} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}): "
                        "write package.module:function, and put its directory on PYTHONPATH.") from error
    try:
        return function(**arguments)
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"--{flag}={name} failed ({type(error).__name__}: {' '.join(str(error).split())}, "
                        f"{place.filename}, line {place.lineno}).") from error


def check_noise(config):
    """Raises UserError unless --noise is a kind of noise, matrix:FILE of an existing file, or a column of CIFAR-10N."""
    noise, kinds = config.noise, ("none", "symmetric", "asymmetric")
    if config.dataset == "cifar10_n":
        if noise not in CIFAR10_N_LABELS:
            raise UserError(f"--noise={noise}: --dataset=cifar10_n has the labels {', '.join(CIFAR10_N_LABELS)}: choose "
                            "one.")
    elif noise not in kinds and not noise.startswith("matrix:"):
        raise UserError(f"--noise={noise} is not known: choose one of {', '.join(kinds)}, matrix:FILE.")
    elif noise not in kinds and not pathlib.Path(noise.removeprefix("matrix:")).is_file():
        raise UserError(f"--noise={noise}: there is no such file; name a .csv, .txt or .npy file.")
