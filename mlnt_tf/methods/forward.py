"""Forward correction of the loss by the noise's transition matrix (Patrini et al., CVPR 2017)."""

import numpy as np

from mlnt_tf import losses
from mlnt_tf.methods import transition
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.stage import Outcome


class Forward(CrossEntropy):
    """Cross entropy of p T against the given labels, p the softmax of the network, which learns the true ones.

    Args:
      network: as of `CrossEntropy`.
      matrix: [classes, classes], T: p(given | true), a row for each true class.
    """

    def __init__(self, network, *, matrix, **kwargs):
        super().__init__(network, **kwargs)
        self.matrix = np.asarray(matrix, np.float32)

    def batch_loss(self, batch, logits):
        return losses.forward_cross_entropy(batch["label"], logits, self.matrix)


def train(run):
    """One stage, after one of cross entropy where T is estimated; exports the student."""
    matrix, report = transition.of_run(run)
    stage = run.stage("forward")
    stage.train(lambda network: Forward(network, matrix=matrix))
    return Outcome(stage, "student", {"transition": report})


def check(config, examples, network):
    transition.check(config, examples)


def planned_epochs(config, examples):
    return transition.planned_epochs(config, examples)
