"""L2-regularized logistic regression on features of a frozen body, as scikit-learn fits it."""

from sklearn.linear_model import LogisticRegression

from mlnt_tf.experiment import features

MAX_ITERATIONS = 200


def train(run):
    """Fits the classifier and adds it as the only stage."""
    classifier = LogisticRegression(C=run.config.logistic_c, max_iter=MAX_ITERATIONS)
    features.train_linear_stage(run, "logistic", classifier)


def check(config, examples, network):
    """Raises UserError unless the body is frozen."""
    del examples, network
    features.check_frozen_body(config)


def planned_epochs(config, examples):
    """Returns no epochs: there are no training steps."""
    del config, examples
    return {}
