"""Forward correction of the loss by the noise's transition matrix (Patrini et al., CVPR 2017)."""

import numpy as np

from mlnt_tf import losses
from mlnt_tf.experiment import transition
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.cross_entropy import CrossEntropy


class Forward(CrossEntropy):
    """Cross entropy of p T with the given labels, where p is the network's softmax.

    The network learns to predict the true labels.

    Args:
      network: as for `CrossEntropy`.
      matrix: [classes, classes], the transition matrix T: p(given | true), one row per true class.
    """

    takes_probabilities = False

    def __init__(self, network, *, matrix, **kwargs):
        super().__init__(network, **kwargs)
        self.matrix = np.asarray(matrix, np.float32)

    def per_example_loss(self, batch, logits):
        return losses.forward_cross_entropy(batch["label"], logits, self.matrix)


def train(run):
    """One stage, after one of cross entropy where T is estimated; exports the student."""
    matrix = transition.matrix_for_run(run, cross_entropy.train_stage)
    stage = run.stage("forward")
    stage.train(lambda network: Forward(network, matrix=matrix))


def check(config, examples, network):
    transition.check(config, examples)


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    return transition.planned_epochs(config, examples)
