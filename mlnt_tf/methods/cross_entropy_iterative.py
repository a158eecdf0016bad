"""Cross entropy with MLNT's iterations: mentor and filter without the meta loss (M = 0)."""

from mlnt_tf.methods import iterations
from mlnt_tf.methods.iterations import candidates  # noqa: F401, the method's own


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    return {"cross entropy": config.iterations * config.epochs}


def check(config, examples, network):
    """Raises UserError unless the network can be trained as the flags ask."""
    iterations.check(config, examples, network, num_synthetic=0)


def train(run):
    """Trains the iterations without a warm-up: the first one is cross entropy."""
    iterations.train_iterations(run, mentor=None, num_synthetic=0)
