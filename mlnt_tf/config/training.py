"""Settings of the method, the size of the run and the classification update."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import Section, setting
from mlnt_tf.config.user_functions import check_name, is_function_name, parse_arguments

# The built-in methods. Each is a module of this name in mlnt_tf/methods.
METHODS = ("mlnt", "cross_entropy", "cross_entropy_ema", "cross_entropy_iterative", "mean_teacher",
           "forward", "joint_optimization", "cnn_crf", "elr", "gce", "lda", "logistic")


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
    learning_rate_decay_epochs: float = setting(
        -1.0, "Number of epochs after which the learning rate falls to a tenth; -1 means two "
        "thirds of --epochs, 0 means never.", minimum=-1)
    momentum: float = setting(0.9, "Momentum of the classification update.", minimum=0, below=1)
    weight_decay: float = setting(
        1e-4, "Coupled weight decay: this factor times the weight is added to the gradient.",
        minimum=0)

    @property
    def decay_epochs(self):
        """Number of epochs after which the learning rate falls to a tenth, or None for never.

        The default is two thirds of the epochs, like the paper's 80 of 120.
        """
        if self.learning_rate_decay_epochs < 0:
            return self.epochs * 2 / 3
        return self.learning_rate_decay_epochs or None
