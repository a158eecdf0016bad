"""A cheap look at a data set before any image is decoded: how many images, classes and pixels."""

import dataclasses

import numpy as np

from mlnt_tf.data.images.decode import decode
from mlnt_tf.data.images.header import image_size, read_header
from mlnt_tf.data.sources import csv_table, folder, tfds_sets, user_function
from mlnt_tf.data.sources.digits import load_digits

MAX_FILES = 100  # Files whose headers are read.
MAX_RECORDS = 20  # Records of a TFDS data set that are decoded.
# {dataset: (training images, classes, height, width)} of data sets that are always the same.
KNOWN = {"cifar10": (50_000, 10, 32, 32), "cifar10_n": (50_000, 10, 32, 32),
         "clothing1m": (1_000_000, 14, 256, 256)}


@dataclasses.dataclass(frozen=True)
class Survey:
    """The size of a data set.

    Attributes:
      num_examples: int, the labeled images of the training split, before any are held out; at most
        --train_examples.
      num_classes: int.
      height, width: int, the median size of the images in pixels, before --image_size.
      channels: int, the channels of the images that the network gets, 1 or 3.
    """

    num_examples: int
    num_classes: int
    height: int
    width: int
    channels: int


def survey(config):
    """Returns the `Survey` of the data set that --dataset names.

    A folder or table is listed, and the headers of at most 100 evenly spaced files are read. The
    size is 0 x 0 if none of them is an image. A function of the user's own is called.

    Args:
      config: `Config`. `image_size` may be 0, even if the images differ in size.

    Raises:
      UserError: the data are missing or cannot be listed.
    """
    found = _survey(config)
    if not config.train_examples:
        return found
    return dataclasses.replace(found, num_examples=min(found.num_examples, config.train_examples))


def _survey(config):
    """Returns the `Survey` of the complete data set."""
    if config.dataset in KNOWN:
        return Survey(*KNOWN[config.dataset], channels=3)
    if config.dataset == "folder":
        return _survey_listing(*folder.list_folder(config))
    if config.dataset == "csv":
        return _survey_listing(*csv_table.list_table(config))
    if config.dataset.startswith("tfds:"):
        return _survey_builder(config)
    load = load_digits if config.dataset == "digits" else user_function.load_function
    source = load(dataclasses.replace(config, image_size=0, crop_size=0))
    return Survey(len(source.train), len(source.class_names), *source.train.images.shape)


def _survey_listing(root, class_names, listings):
    """Returns the `Survey` of listed files; see `build_source` for the arguments."""
    paths = np.concatenate([listing.paths for listing in listings.values()] or [np.zeros(0, "S")])
    rows = np.unique(np.linspace(0, len(paths) - 1, MAX_FILES).astype(int)) if len(paths) else []
    sizes = [image_size(read_header(root / _file_name(paths[row]))) for row in rows]
    height, width = _median_size([size for size in sizes if size])
    train = listings.get("train")
    num_examples = 0 if train is None else int((train.labels >= 0).sum())
    return Survey(num_examples, len(class_names), height, width, channels=3)


def _survey_builder(config):
    """Returns the `Survey` of a TFDS data set, from its metadata and a few of its records."""
    builder = tfds_sets.prepared_builder(config.dataset.removeprefix("tfds:"), config)
    image, label = tfds_sets.image_and_label(builder, config)
    features = builder.info.features
    size = features[image].shape[:2]
    if None in size:
        encoded = tfds_sets.first_encoded_images(builder, image, MAX_RECORDS)
        size = _median_size([decode(record).shape[:2] for record in encoded])
    return Survey(builder.info.splits["train"].num_examples, features[label].num_classes, *size,
                  channels=3)


def _file_name(path):
    return path.decode("utf-8", "surrogateescape")


def _median_size(sizes):
    """Returns the median (height, width) of a list of sizes; (0, 0) if it is empty."""
    if not sizes:
        return 0, 0
    height, width = np.median(np.array(sizes), axis=0).astype(int)
    return int(height), int(width)
