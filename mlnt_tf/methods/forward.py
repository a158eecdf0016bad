"""Forward correction of the loss by a transition matrix (Patrini et al., CVPR 2017)."""

import keras
import numpy as np

from mlnt_tf import losses
from mlnt_tf.experiment import transition
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.cross_entropy import CrossEntropy


def train(run):
    """Trains one stage. If T is estimated, a stage of cross entropy and a first fit precede it."""
    matrix = transition.matrix_for_run(run, cross_entropy.train_stage, refit=train_first_fit)
    train_stage(run, "forward", matrix)


def train_first_fit(run, matrix):
    """Trains a stage with a first estimate of T, from which T is estimated again."""
    return train_stage(run, "first forward fit", matrix)


def train_stage(run, name, matrix):
    """Trains and returns a stage of this name with the transition matrix T."""
    stage = run.stage(name)
    stage.train(lambda network: Forward(network, matrix=matrix))
    return stage


def check(config, examples, network):
    """Raises UserError unless there is a usable transition matrix."""
    del network
    transition.check(config, examples)


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    return transition.planned_epochs(config, examples, refits=1)


@keras.saving.register_keras_serializable(package="mlnt_tf")
class Forward(CrossEntropy):
    """Cross entropy between the given labels and p T, where p is the network's softmax.

    The network learns to predict the true labels.

    Args:
      network: as for `CrossEntropy`.
      matrix: float [classes, classes], the transition matrix T: p(given | true), one row per true
        class.
    """

    takes_probabilities = False

    def __init__(self, network, *, matrix, **kwargs):
        super().__init__(network, **kwargs)
        self.matrix = np.asarray(matrix, np.float32)

    def per_example_loss(self, batch, logits):
        return losses.forward_cross_entropy(batch["label"], logits, self.matrix)
