"""Recipes: named sets of defaults, each for a kind of data.

A setting takes its value from, in this order, the command line, the flag file, the recipe and the
default. Some values depend on the data, so those recipes are applied once the data's size is known.
"""

import dataclasses
import typing

from mlnt_tf.config.settings import Section, setting, setting_fields
from mlnt_tf.config.user_functions import is_function_name

AUTO = "auto"
PRETRAINED_MODELS = ("efficientnet_lite0", "resnet50")  # And keras:NAME.
SMALL_IMAGE = 64  # Pixels. Images with a longer shorter side count as photographs.
PHOTO_SIZE = 112  # Pixels. On a CPU, 224 pixels take four times as long.
MAX_IMAGES_ON_CPU = 20_000  # More images take over an hour to fine-tune without an accelerator.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named set of defaults.

    Attributes:
      summary: str, one line for --help.
      values: dict of settings, or a function of a `data.sources.Survey` that returns one.
    """

    summary: str
    values: typing.Any

    @property
    def needs_survey(self):
        """bool, whether the values depend on the data."""
        return callable(self.values)


def photos(survey):
    """Returns the settings of recipe "photos" for a `Survey`."""
    return {
        **photo_network(survey), "initial_head": "probe", "method": "forward",
        "transition_matrix": "probe", "freeze_batch_norm": True, "augment": True,
        "crop_scale": 0.35, "batch_size": batch_size(survey, 32),
        # A small data set needs more epochs for the same number of steps.
        "epochs": clip(round(10_000 / survey.num_examples), 3, 10),
        "learning_rate": 0.003, "lr_schedule": "cosine", "warmup_epochs": 0.3, "select": "auto",
        **meta_learning(0.003)}


def photos_fast(survey):
    """Returns the settings of recipe "photos_fast" for a `Survey`."""
    batch = batch_size(survey, clip(survey.num_examples // 30, 32, 128))
    return {
        **photo_network(survey), "freeze": "body", "method": "forward",
        "transition_matrix": "estimated", "batch_size": batch, "epochs": 15,
        "learning_rate": 0.02, "lr_schedule": "cosine", "select": "auto", **meta_learning(0.02)}


def meta_learning(learning_rate):
    """Returns settings for --method=mlnt on a pretrained network, as the paper's on Clothing1M.

    The meta learning rate is that of the classification update.
    """
    return {"num_synthetic": 2, "iterations": 2, "inner_rate": 0.02, "meta_rate": learning_rate}


def photo_network(survey):
    """Returns the settings of the network that both recipes for photographs share."""
    return {
        "model": "efficientnet_lite0", "pretrained_weights": "imagenet", "image_size": PHOTO_SIZE,
        "keep_aspect_ratio": fills_a_square(survey), "ema_decay": 0.99}


def small_images(survey):
    """Returns the settings of recipe "small_images" for a `Survey`."""
    return {
        "image_size": clip(min(survey.height, survey.width), 8, SMALL_IMAGE),
        "keep_aspect_ratio": fills_a_square(survey), "model": "preact_resnet8", "width": 16,
        "augment": survey.channels == 3, "method": "cross_entropy",
        "batch_size": batch_size(survey, clip(survey.num_examples // 30, 32, 64)),
        # A longer training would fit the wrong labels.
        "epochs": clip(round(120_000 / survey.num_examples), 15, 60), "learning_rate": 0.1,
        "select": "auto"}


def batch_size(survey, preferred):
    """Returns the largest batch size up to `preferred` that leaves four batches per epoch."""
    return clip(survey.num_examples // 5, 1, preferred)


def fills_a_square(survey):
    """Returns whether the center crop of a typical image keeps at least half of it.

    Longer images, such as panoramas and spectrograms, are stretched instead.
    """
    return max(survey.height, survey.width) <= 2 * min(survey.height, survey.width)


def clip(value, low, high):
    """Returns the value, at least `low` and at most `high`."""
    return max(low, min(value, high))


PAPER = {  # Sections 4.1 and 4.2.
    "method": "mlnt", "validation_labels": "clean", "iterations": 3, "num_synthetic": 10,
    "transfer_ratio": 0.5, "num_neighbors": 10, "neighbor_scope": "batch",
    "neighbor_features": "penultimate", "meta_ramp": "exp", "meta_order": "first",
    "update_mode": "sequential", "momentum": 0.9, "ema_decay_start": 0.99, "ema_decay": 0.999,
    "tau": 0.3, "lambda_max": 0.5, "transition_matrix": "anchors"}
RECIPES = {
    "digits": Recipe("the defaults, which suit 8 × 8 digits", {}),
    "photos": Recipe("photographs: a pretrained network, probed and then fine-tuned", photos),
    "photos_fast": Recipe("photographs: linear heads on features of a frozen pretrained network",
                          photos_fast),
    "small_images": Recipe("images of 28 to 64 pixels: a small network from scratch",
                           small_images),
    "paper_cifar10": Recipe("the paper's settings on CIFAR-10", {
        **PAPER, "dataset": "cifar10", "validation_fraction": 0.1, "augment": True,
        "noise_sampling": "bernoulli", "symmetric_includes_true": True,
        "model": "preact_resnet32", "width": 32, "epochs": 120, "batch_size": 128,
        "inner_rate": 0.2, "meta_rate": 0.4, "learning_rate": 0.2, "weight_decay": 0.0001}),
    "paper_clothing1m": Recipe("the paper's settings on Clothing1M", {
        **PAPER, "dataset": "clothing1m", "noise": "none", "image_size": 256, "crop_size": 224,
        "augment": False, "model": "resnet50", "pretrained_weights": "imagenet", "epochs": 3,
        "batch_size": 32, "inner_rate": 0.02, "meta_rate": 0.0008, "meta_ramp_epochs": 0.064,
        "learning_rate": 0.0008, "learning_rate_decay_epochs": "0", "weight_decay": 0.001,
        "ema_ramp": "first"}),
}


@dataclasses.dataclass(frozen=True)
class RecipeSettings(Section):
    """Recipe"""

    recipe: str = setting(
        AUTO, "Named set of defaults, which other flags replace; see the list of recipes. auto "
        "chooses photos, photos_fast or small_images for folder, csv and tfds:NAME, by the size of "
        "the images, and digits for other data.",
        choices=(AUTO, *RECIPES), changes_results=False)
    select: str = setting(
        "best", "Network to export, and to rank the labels: best takes the method's network with "
        "the highest validation accuracy. auto compares all stages, including cross entropy and "
        "its EMA: a later stage replaces an earlier one only if its validation accuracy is higher, "
        "and by more than one standard error unless it trains a head in seconds. last takes "
        "the last epoch of the last stage.",
        choices=("auto", "best", "last"))

    @property
    def has_automatic_recipe(self):
        """Whether the data set is the user's own, so that "auto" depends on its images."""
        return self.dataset in ("folder", "csv") or self.dataset.startswith("tfds:")


def choose(config, survey, *, processor):
    """Chooses the recipe for the user's own images.

    Args:
      config: a Config that was made from a command line.
      survey: `Survey` of the data.
      processor: "gpu", "avx512" for a CPU with these units, or "other".

    Returns:
      (name of the recipe, reason).
    """
    if config.freeze == "body":
        return "photos_fast", "--freeze=body trains heads on features of a frozen network"
    side = min(survey.height, survey.width)
    if side <= SMALL_IMAGE:
        return "small_images", f"the images have {survey.height} × {survey.width} pixels"
    if not _starts_from_pretrained_weights(config):
        return "small_images", "the network has no pretrained weights that the recipes know"
    reason = f"the images have about {survey.height} × {survey.width} pixels"
    if processor == "other":
        return "photos_fast", (f"{reason}, and this processor is too slow to fine-tune a network; "
                               "--recipe=photos does so anyway")
    if survey.num_examples > MAX_IMAGES_ON_CPU and processor != "gpu":
        return "photos_fast", (f"{reason}, and {survey.num_examples} images take over an hour to "
                               "fine-tune without a GPU; --recipe=photos does so anyway")
    return "photos", reason


def _is_own_network(config):
    return is_function_name(config.model) and not config.model.startswith("keras:")


def _starts_from_pretrained_weights(config):
    """Returns whether the given flags, if any, allow a network with pretrained weights."""
    if "pretrained_weights" in config.given:
        return config.pretrained_weights != "none"
    if "model" not in config.given:
        return True
    return config.model in PRETRAINED_MODELS or config.model.startswith("keras:")


def given_settings(config):
    """Returns the names of the settings that were given, as a set.

    In a Config that was not made from a command line, these are the settings that differ from their
    default.
    """
    if config.given is not None:
        return config.given
    return {name for name, field in setting_fields(config).items()
            if getattr(config, name) != field.default}


def apply(config, name, survey=None):
    """Returns a Config with the values of a recipe in place of settings that were not given.

    A network of the user's own keeps its own initial weights.

    Args:
      config: a Config.
      name: str, a key of RECIPES.
      survey: `Survey` of the data, if the recipe needs one.
    """
    recipe = RECIPES[name]
    values = recipe.values(survey) if recipe.needs_survey else recipe.values
    kept = set(given_settings(config))
    if "model" in kept and _is_own_network(config):
        kept.add("pretrained_weights")
    values = {name: value for name, value in values.items() if name not in kept}
    return dataclasses.replace(config, recipe=name, **values, from_recipe=frozenset(values))
