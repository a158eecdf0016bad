"""Lists of image files, from a folder or a table, as a data set."""

import dataclasses
import os
import pathlib

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.scan import check_bad_images, scan_files
from mlnt_tf.data.images.storage import FileImages, load_into_memory
from mlnt_tf.data.splits import TEST_SALT, Source, Split, hold_out

SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
               "validation": "validation", "test": "test", "testing": "test"}


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files of one split: `paths` bytes [n], relative to the root; `labels`, `true_labels` int32 [n], -1 where
    unknown."""

    paths: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray

    @classmethod
    def of(cls, rows):
        """From (path, label, true label) rows."""
        paths, labels, true_labels = zip(*rows)
        return cls(np.array([os.fsencode(path) for path in paths]), np.array(labels, np.int32),
                   np.array(true_labels, np.int32))


def read_class_names(path, flag="--class_names"):
    """The lines of a file that a flag names."""
    try:
        names = tuple(line.strip() for line in pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
                      if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path} cannot be read ({error}): name a text file, a class a line.") from error
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"{flag}={path} must name two classes at least, each once.")
    return names


def data_directory(config):
    root = pathlib.Path(config.data_dir)
    if not config.data_dir or not root.is_dir():
        raise UserError(f"--data_dir={config.data_dir} is no directory: --dataset={config.dataset} needs one" + (
            ", DIR/CLASS/image or DIR/train/CLASS/image." if config.dataset == "folder" else "."))
    return root.resolve()


def build_source(config, root, class_names, listings):
    """A Source of {"train", "validation", "test": Listing}, bad images left out; what is missing is drawn from train.

    The test split is drawn the same for every seed.

    Raises:
      UserError: no training images, too many bad ones, or sizes that differ and no --image_size.
    """
    if len(class_names) < 2:
        raise UserError(f"--data_dir={config.data_dir}: all images are of one class: two are needed.")
    if "train" not in listings:
        raise UserError(f"--data_dir={config.data_dir}: there are no training images.")
    paths = np.concatenate([listing.paths for listing in listings.values()])
    everything = FileImages(paths, root=str(root), size=(1, 1))
    inspection = scan_files(everything)
    bad = inspection.bad_images(everything)
    check_bad_images(bad, len(paths), config.max_bad_images)
    size = common_size(config, inspection.sizes[inspection.good])
    splits, start = {}, 0
    for name, listing in listings.items():
        rows = np.flatnonzero(inspection.good[start:start + len(listing.paths)])
        if not len(rows):
            raise UserError(f"--data_dir={config.data_dir}: none of the {name} images decodes.")
        images = FileImages(listing.paths[rows], root=str(root), size=size)
        splits[name] = Split(ids=rows, labels=listing.labels[rows], images=load_into_memory(images), records=images.paths,
                             true_labels=listing.true_labels[rows], digests=inspection.digests[start + rows])
        start += len(listing.paths)
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(splits["train"], fraction=config.test_fraction, seed=0,
                                                   salt=TEST_SALT)
        logging.info("no test split: %d of the training examples are set apart, the same for every seed",
                     len(splits["test"]))
    return Source(class_names, **splits, bad_images=tuple(bad), sizes=inspection.sizes[inspection.good])


def common_size(config, sizes):
    """(height, width) to store the images in: --image_size, or what all of them have."""
    if config.resized:
        return config.resized
    if not len(sizes):
        raise UserError(f"--data_dir={config.data_dir}: none of the images decodes.")
    least, most = sizes.min(axis=0), sizes.max(axis=0)
    if (least != most).any():
        raise UserError(f"the images differ in size, from {least[0]} x {least[1]} to {most[0]} x {most[1]} (height x "
                        "width): give one in --image_size, as --image_size=64.")
    return int(least[0]), int(least[1])
