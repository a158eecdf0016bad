"""Applies the recipe of a run, once the size of its images is known."""

import tensorflow as tf
from absl import logging

from mlnt_tf.config import recipes
from mlnt_tf.config.settings import format_value
from mlnt_tf.data import sources
from mlnt_tf.hardware import host


def resolve_recipe(config):
    """Returns the Config with the values of its recipe, and logs which recipe it is and why.

    Args:
      config: a Config. Nothing changes if a recipe has been applied to it already. A Config with
        recipe "auto" that was not made from a command line keeps its values, too.

    Raises:
      UserError: the data are missing or cannot be read.
    """
    name, reason = config.recipe, "given"
    is_automatic = name == recipes.AUTO
    if config.from_recipe is not None:
        return config
    if is_automatic and (config.given is None or not config.has_automatic_recipe):
        return config
    survey = None
    if is_automatic or recipes.RECIPES[name].needs_survey:
        survey = sources.survey(config)
        if not survey.num_examples or not survey.height:
            return config  # There is nothing to train on, which loading the data will report.
    if is_automatic:
        name, reason = recipes.choose(config, survey, processor=processor_kind())
    config = recipes.apply(config, name, survey)
    logging.info("recipe %s (%s): %s", name, reason,
                 " ".join(f"--{name}={format_value(getattr(config, name))}"
                          for name in sorted(config.from_recipe)))
    return config


def processor_kind():
    """Returns "gpu", "avx512" or "other", by what this machine trains on."""
    if tf.config.list_physical_devices("GPU"):
        return "gpu"
    return "avx512" if host.cpu_has_avx512() else "other"
