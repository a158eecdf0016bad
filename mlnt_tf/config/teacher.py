"""Settings of the teacher, of the iterations of mentor and filter, and of label repair."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import Section, setting

ITERATIVE_METHODS = ("mlnt", "mean_teacher", "cross_entropy_iterative")


@dataclasses.dataclass(frozen=True)
class TeacherSettings(Section):
    """Teacher, the average of the student's weights"""

    ema_decay_start: float = setting(0.99, "gamma during the ramp.", minimum=0, below=1)
    ema_decay: float = setting(0.99, "gamma after the ramp.", minimum=0, below=1)
    meta_ramp_epochs: float = setting(
        -1.0, "Length in epochs of the ramps of gamma and, for mlnt, eta; -1 means a sixth of "
        "--epochs.", minimum=-1)
    teacher_statistics: str = setting(
        "own", "Batch-norm statistics of the teacher: from its own forward pass, or averaged like "
        "its weights.", choices=("own", "averaged"))

    @property
    def ramp_epochs(self):
        """Length in epochs of the ramps of eta and gamma.

        The default is a sixth of the epochs, like the paper's 20 of 120.
        """
        return self.epochs / 6 if self.meta_ramp_epochs < 0 else self.meta_ramp_epochs


@dataclasses.dataclass(frozen=True)
class IterationSettings(Section):
    """Iterations of mentor, filter and training (paper section 3.3)"""

    METHODS = ITERATIVE_METHODS

    iterations: int = setting(3, "Number of iterations of mentor, filter and training.", minimum=1)
    tau: float | str = setting(
        0.3, "The filter selects an example if the mentor gives its given label a probability "
        "above tau. auto separates the probabilities into two groups, by a mixture of two "
        "normal distributions.", choices=("auto",), minimum=0, below=1)
    ema_ramp: str = setting(
        "each", "Ramp gamma in each iteration, or only in the first one (paper, Clothing1M).",
        choices=("each", "first"))


@dataclasses.dataclass(frozen=True)
class RepairSettings(Section):
    """Labels and loss of the classification update"""

    METHODS = ITERATIVE_METHODS

    label_repair: str = setting(
        "filter", "Labels from the second iteration on. filter (paper) keeps a given label whose "
        "probability is above --tau, agree one that the mentor predicts. votes takes confident "
        "predictions as labels, posterior the most likely true class; both keep a label that wins "
        "among the nearest images.", choices=("filter", "agree", "votes", "posterior"))
    min_per_class: int = setting(
        0, "From the second iteration on, keep at least this number of examples of each class, the "
        "most trusted ones; 0 is the paper.", minimum=0)
    mixup: float = setting(
        0.0, "alpha of mixup for the classification update from the second iteration on: each "
        "image is averaged with another by a weight drawn from Beta(alpha, alpha); 0 is off.",
        minimum=0)
    classification_loss: str = setting(
        "cross_entropy", "Loss of the classification update in every iteration. gce and elr have "
        "their own settings.", choices=("cross_entropy", "gce", "elr"))

    def check(self):
        if self.mixup and self.batch_size % 2:
            raise UserError(f"--mixup={self.mixup} averages pairs of images, but --batch_size="
                            f"{self.batch_size} is odd. Use an even batch size.")

    @property
    def votes_among_neighbors(self):
        """Whether the labels are repaired by votes, which needs a search for neighbors."""
        is_iterative = self.method in ITERATIVE_METHODS and self.iterations > 1
        return is_iterative and self.label_repair in ("votes", "posterior")

    def is_classification_loss(self, name):
        """Returns whether the iterations minimize this loss in their classification update."""
        return self.method in ITERATIVE_METHODS and self.classification_loss == name
