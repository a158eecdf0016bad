"""Cross entropy with MLNT's iterations: mentor and filter without the meta loss (M = 0)."""

import dataclasses

from mlnt_tf.methods import iterations


def train(run):
    return iterations.train(dataclasses.replace(run, config=without_meta_loss(run.config)))


def check(config, examples, network):
    iterations.check(without_meta_loss(config), examples, network)


def planned_epochs(config, examples):
    return iterations.planned_epochs(without_meta_loss(config), examples)


def without_meta_loss(config):
    return dataclasses.replace(config, num_synthetic=0)
