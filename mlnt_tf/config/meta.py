"""Settings of the meta update: synthetic labels and inner step, and the consistency loss."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import Section, setting
from mlnt_tf.config.user_functions import is_function_name


@dataclasses.dataclass(frozen=True)
class MetaSettings(Section):
    """Meta-learning: synthetic labels and inner step"""

    METHODS = ("mlnt",)

    num_synthetic: int = setting(
        10, "M: number of synthetic label sets per step; 0 means plain cross entropy.", minimum=0,
        maximum=10_000)
    synthetic: str = setting(
        "sampled", "Labels of the inner steps: M sampled sets (paper), or a single step on their "
        "expected value, which costs less than M = 2. It ignores --num_synthetic unless that is 0.",
        choices=("sampled", "expected"))
    transfer_ratio: float = setting(
        0.5, "rho/k: fraction of the batch whose labels are replaced.", minimum=0, maximum=1)
    num_neighbors: int = setting(
        10, "Number of nearest neighbors from which a synthetic label is drawn.", minimum=1)
    neighbor_scope: str = setting(
        "dataset", "Search for neighbors in the complete training set, or within the batch like "
        "the paper.", choices=("dataset", "batch"))
    neighbor_backend: str = setting(
        "auto", "Search method for --neighbor_scope=dataset; auto means ScaNN if it can be loaded, "
        "else exact search.", choices=("auto", "scann", "exact"))
    neighbor_features: str = setting(
        "penultimate", "Features whose distance defines neighbors.",
        choices=("penultimate", "logits"))
    inner_rate: float = setting(0.2, "alpha: step size of the inner gradient step.", minimum=0)
    meta_order: str = setting(
        "first", "Treat the inner gradient as a constant, or differentiate through it.",
        choices=("first", "full"))
    fast_weights: str = setting(
        "all", "Weights that the inner step changes: all (paper), the last stage, or only the last "
        "layer, which is much cheaper.", choices=("all", "last_stage", "head"))
    synthetic_parallelism: int = setting(
        1, "Number of the M label sets that are computed at once. A higher number needs more "
        "memory. The result is the same.", minimum=1)
    inner_reduce: str = setting(
        "global", "Replicas take the inner step with their mean gradient, like a single device "
        "(global), or each with its own gradient, which saves M of M + 2 all-reduces (replica).",
        choices=("global", "replica"))

    @property
    def has_meta_loss(self):
        """Whether training uses the meta loss and therefore needs neighbors.

        True for mlnt, and for a user's method, unless --num_synthetic=0.
        """
        may_use_it = self.method == "mlnt" or is_function_name(self.method)
        return may_use_it and self.num_synthetic > 0

    def check(self):
        within_batch = self.has_meta_loss and self.neighbor_scope == "batch"
        if within_batch and self.num_neighbors >= self.batch_size:
            raise UserError(f"--num_neighbors={self.num_neighbors} needs a batch larger than "
                            f"{self.num_neighbors}, but --batch_size={self.batch_size}. Raise "
                            "--batch_size or lower --num_neighbors.")


@dataclasses.dataclass(frozen=True)
class ConsistencySettings(Section):
    """Consistency with the teacher: the meta update, which mean_teacher takes without inner step"""

    METHODS = ("mlnt", "mean_teacher")

    meta_rate: float = setting(1.6, "eta: meta learning rate after its ramp.", minimum=0)
    meta_ramp: str = setting(
        "exp", "Shape of the ramp of eta, which only the first iteration has.",
        choices=("exp", "linear", "none"))
    meta_rate_decay: str = setting(
        "constant", "After its ramp, eta stays constant or follows the decay of the learning rate.",
        choices=("constant", "follow"))
    meta_momentum: float = setting(0.0, "Momentum of the meta update.", minimum=0, below=1)
    meta_every: int = setting(
        1, "Take a meta update every n-th step; the other steps are cross entropy.", minimum=1)
    update_mode: str = setting(
        "sequential", "Compute the classification gradient at the weights after the meta update "
        "(sequential), or both gradients at the old weights (joint).",
        choices=("sequential", "joint"))
    lambda_max: float = setting(
        0.5, "Weight of the teacher, next to the mentor, in the merged target at the end of an "
        "iteration.", minimum=0, maximum=1)

    @property
    def has_consistency_loss(self):
        """Whether a step has a second update, along the gradient of the consistency loss."""
        return self.method == "mean_teacher" or self.has_meta_loss
