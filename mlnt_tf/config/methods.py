"""Settings of the methods that MLNT is compared with."""

import dataclasses
import pathlib

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import PathFormat, Section, setting

TRANSITIONS = ("auto", "true", "estimated", "anchors", "probe")
PRIORS = ("uniform", "given")


@dataclasses.dataclass(frozen=True)
class TransitionSettings(Section):
    """Transition matrix of Forward (Patrini et al. 2017) and CNN-CRF"""

    METHODS = ("forward", "cnn_crf")

    transition_matrix: str = setting(
        "auto", "T, p(given | true): true; estimated from the confident joint of a network trained "
        "by cross entropy, and for forward once more from a network trained with that estimate; "
        "anchors, the estimate of Patrini et al.; probe, with --initial_head=probe; or a file with "
        "one row per true class. auto means true if --noise injects the noise, else estimated.",
        path=PathFormat(words=TRANSITIONS))

    def check(self):
        if self.transition_matrix in TRANSITIONS:
            return
        if not pathlib.Path(self.transition_matrix).is_file():
            raise UserError(f"--transition_matrix={self.transition_matrix} names a file that does "
                            f"not exist. Choose one of {', '.join(TRANSITIONS)}, or name an "
                            "existing .csv, .txt or .npy file.")


@dataclasses.dataclass(frozen=True)
class PriorSettings(Section):
    """Class prior of Joint Optimization and CNN-CRF"""

    METHODS = ("joint_optimization", "cnn_crf")

    class_prior: str = setting(
        "uniform", "Fractions of the true classes: uniform (papers), given for those of the given "
        "labels, or a .csv, .txt or .npy file with one number per class.",
        path=PathFormat(words=PRIORS))

    def check(self):
        if self.class_prior in PRIORS or pathlib.Path(self.class_prior).is_file():
            return
        raise UserError(f"--class_prior={self.class_prior} names a file that does not exist. "
                        f"Choose one of {', '.join(PRIORS)}, or name an existing file.")


@dataclasses.dataclass(frozen=True)
class GceSettings(Section):
    """Generalized cross entropy (Zhang & Sabuncu 2018)"""

    METHODS = ("gce",)

    def is_read_too(self):
        return self.is_classification_loss("gce")

    gce_q: float = setting(
        0.7, "q: the loss is close to cross entropy for small q, and the mean absolute error at 1.",
        above=0, maximum=1)


@dataclasses.dataclass(frozen=True)
class LogisticSettings(Section):
    """Logistic regression of scikit-learn"""

    METHODS = ("logistic",)

    logistic_c: float = setting(
        0.003, "C: inverse of the strength of the L2 regularization.", above=0)


@dataclasses.dataclass(frozen=True)
class ElrSettings(Section):
    """Early-learning regularization (Liu et al. 2020)"""

    METHODS = ("elr",)

    def is_read_too(self):
        return self.is_classification_loss("elr")

    elr_lambda: float = setting(
        3.0, "lambda: strength of the regularization; 0 is cross entropy.", minimum=0)
    elr_beta: float = setting(
        0.7, "beta: decay of the running average of each example's predictions.", minimum=0,
        below=1)


@dataclasses.dataclass(frozen=True)
class JointSettings(Section):
    """Joint Optimization (Tanaka et al. 2018)"""

    METHODS = ("joint_optimization",)

    joint_alpha: float = setting(1.2, "alpha: weight of the prior loss.", minimum=0)
    joint_beta: float = setting(0.8, "beta: weight of the entropy loss.", minimum=0)
    joint_labels: str = setting(
        "soft", "New labels: the mean of the last predictions (soft), or its most likely class "
        "(hard).",
        choices=("soft", "hard"))
    joint_epochs: int = setting(
        0, "Number of epochs of stage 1; 0 means 5/3 of --epochs (stage 2 has --epochs; paper: 200 "
        "and 120).", minimum=0)
    joint_start_epoch: int = setting(
        0, "Update the labels from the end of this epoch on; 0 means after 35 % of stage 1 (paper: "
        "70 of 200).", minimum=0)
    joint_rate: float = setting(
        0.0, "Learning rate of stage 1; 0 means 0.4 × --learning_rate, the learning rate of stage "
        "2 (paper: 0.08 and 0.2).", minimum=0)

    @property
    def joint_stage_epochs(self):
        """Number of epochs of stage 1."""
        return self.joint_epochs or round(self.epochs * 5 / 3)

    @property
    def joint_start(self):
        """The epoch, counted from 1, at whose end the labels are updated for the first time."""
        return self.joint_start_epoch or max(round(0.35 * self.joint_stage_epochs), 1)

    def check(self):
        if self.method == "joint_optimization" and self.joint_start > self.joint_stage_epochs:
            raise UserError(f"--joint_start_epoch={self.joint_start} is after the end of "
                            f"stage 1, which has {self.joint_stage_epochs} epochs, so no label "
                            "would be updated. Lower --joint_start_epoch or raise "
                            "--joint_epochs.")


@dataclasses.dataclass(frozen=True)
class CnnCrfSettings(Section):
    """CNN-CRF (Vahdat 2017)"""

    METHODS = ("cnn_crf",)

    crf_form: str = setting(
        "analytic", "Model the true and the given label as independent given the image (analytic), "
        "or jointly (exact).", choices=("analytic", "exact"))
    num_clean_labels: int = setting(
        1000, "Number of training examples whose true label is used, the same number in each "
        "class. Classes with fewer examples contribute all of them.", minimum=0)
