"""Linear discriminant analysis with shrinkage (Ledoit & Wolf 2004) on features of a frozen body.

A linear baseline without any parameter to tune. Its covariance estimate averages over the wrong
labels, which makes it hard to beat on few, noisy labels.
"""

from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mlnt_tf.experiment import features


def train(run):
    """Fits the classifier and adds it as the only stage."""
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    features.train_linear_stage(run, "lda", classifier)


def check(config, examples, network):
    """Raises UserError unless the body is frozen."""
    del examples, network
    features.check_frozen_body(config)


def planned_epochs(config, examples):
    """Returns no epochs: there are no training steps."""
    del config, examples
    return {}
