"""Cross entropy with MLNT's iterations: mentor and label repair without the meta loss (M = 0)."""

from mlnt_tf.methods import mlnt
from mlnt_tf.methods.mlnt import candidates  # noqa: F401, used by `find`


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    return {"cross entropy": config.iterations * config.epochs}


def check(config, examples, network):
    """Raises UserError if the network cannot be trained with these flags."""
    mlnt.check_network(config, examples, network, mlnt.with_samples(0))


def train(run):
    """Trains the iterations without a warm-up, because the first one is cross entropy already."""
    mlnt.train_iterations(run, None, mlnt.with_samples(0))
