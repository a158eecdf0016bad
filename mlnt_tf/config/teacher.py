"""Settings of the teacher, and of the iterations of mentor and filter."""

import dataclasses

from mlnt_tf.config.settings import Section, setting


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

    METHODS = ("mlnt", "cross_entropy_iterative")

    iterations: int = setting(3, "Number of iterations of mentor, filter and training.", minimum=1)
    tau: float = setting(
        0.3, "The filter selects an example if the mentor gives its given label a probability "
        "above tau.", minimum=0, below=1)
    ema_ramp: str = setting(
        "each", "Ramp gamma in each iteration, or only in the first one (paper, Clothing1M).",
        choices=("each", "first"))
