"""Turns lists of image files, from a directory or a table, into a `Source`."""

import dataclasses
import os
import pathlib

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.images.scan import check_bad_images, scan_files
from mlnt_tf.data.images.storage import FileImages, load_into_memory
from mlnt_tf.data.splits import Source, Split, hold_out_test

# {name of a directory or cell in a table, in lower case: split}.
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "development": "validation",
    "eval": "validation", "evaluation": "validation", "test": "test", "testing": "test"}


@dataclasses.dataclass(frozen=True)
class Listing:
    """The n image files of one split.

    Attributes:
      paths: bytes [n], relative to the root.
      labels: int32 [n], -1 for an image that is not labeled.
      true_labels: int32 [n], -1 where unknown.
      records: bytes [n], the names of the images in tables: the paths, or a table's cells as
        written.
      groups: int64 [n], equal for images that belong in the same split, such as those of one
        patient; -1 for an image on its own.
    """

    paths: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray
    records: np.ndarray
    groups: np.ndarray

    @classmethod
    def from_rows(cls, rows, *, records=None, groups=None):
        """Returns the listing of a non-empty list of (path, label, true label).

        By default, the records are the paths and each image is on its own.
        """
        paths, labels, true_labels = zip(*rows)
        groups = [-1] * len(rows) if groups is None else groups
        return cls(_encode(paths), np.array(labels, np.int32), np.array(true_labels, np.int32),
                   _encode(records or paths), np.array(groups, np.int64))

    def concatenate(self, other):
        """Returns the files of this listing, followed by those of another."""
        return Listing(*(np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                         for field in dataclasses.fields(self)))


def _encode(names):
    return np.array([os.fsencode(name) for name in names])


def data_directory(config):
    """Returns --data_dir as an absolute path. Raises UserError unless it is a directory."""
    root = pathlib.Path(config.data_dir)
    if config.data_dir and root.is_dir():
        return root.resolve()
    layout = ""
    if config.dataset == "folder":
        layout = " with DIR/CLASS/image.jpg or DIR/train/CLASS/image.jpg"
    raise UserError(f"--data_dir={config.data_dir} is not a directory, but "
                    f"--dataset={config.dataset} needs one. Name a directory{layout}.")


def build_source(config, root, class_names, listings):
    """Scans the files and returns them as a `Source`, without those that cannot be decoded.

    If there is no test split, it is held out of the training split. It is the same for every seed.

    Args:
      config: `Config`.
      root: pathlib.Path, the directory that the paths are relative to.
      class_names: tuple of str, in the order of the labels.
      listings: dict of split name ("train", "validation" or "test") to `Listing`.

    Raises:
      UserError: there are no training images, too many images cannot be decoded, or the images
        differ in size and --image_size is not given.
    """
    if len(class_names) < 2:
        raise UserError(f"--data_dir={config.data_dir} has images of one class only "
                        f"({''.join(class_names) or 'none'}), apart from those without a label. "
                        "Training needs at least two classes.")
    if "train" not in listings:
        raise UserError(f"--data_dir={config.data_dir} has no training images. Add images to the "
                        "training split.")
    paths = np.concatenate([listing.paths for listing in listings.values()])
    all_images = FileImages(paths, root=str(root), size=(1, 1))
    scan = scan_files(all_images)
    bad_images = scan.bad_images(all_images)
    check_bad_images(bad_images, len(paths), config.max_bad_images)
    sizes = scan.sizes[scan.good]
    size = _common_size(config, sizes)
    splits, start = {}, 0
    for name, listing in listings.items():
        stop = start + len(listing.paths)
        good, digests = scan.good[start:stop], scan.digests[start:stop]
        is_labeled = listing.labels >= 0
        splits[name] = _build_split(config, root, name, listing, good & is_labeled, digests, size)
        if (good & ~is_labeled).any() and name == "train":
            splits["unlabeled"] = _build_split(
                config, root, name, listing, good & ~is_labeled, digests, size)
        start = stop
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out_test(splits["train"], config.test_fraction)
    return Source(class_names, **splits, bad_images=tuple(bad_images), sizes=sizes)


def _build_split(config, root, name, listing, good, digests, size):
    """Returns the `Split` of the files in a listing that can be decoded."""
    rows = np.flatnonzero(good)
    if not len(rows):
        raise UserError(f"--data_dir={config.data_dir} has no {name} image that can be decoded and "
                        "has a label. Repair the images, or remove the split.")
    images = FileImages(listing.paths[rows], root=str(root), size=size)
    groups = listing.groups[rows] if (listing.groups >= 0).any() else None
    return Split(ids=rows, labels=listing.labels[rows], images=load_into_memory(images),
                 records=listing.records[rows], true_labels=listing.true_labels[rows],
                 digests=digests[rows], groups=groups)


def _common_size(config, sizes):
    """Returns the (height, width) to decode to: --image_size, or the size that all images have."""
    if config.resized:
        return config.resized
    if not len(sizes):
        raise UserError(f"--data_dir={config.data_dir} has no image that can be decoded. Check the "
                        "paths, and repair the images.")
    smallest, largest = sizes.min(axis=0), sizes.max(axis=0)
    if (smallest != largest).any():
        raise UserError(f"--data_dir={config.data_dir} has images of different sizes, from "
                        f"{smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} (height x "
                        "width). Choose one size with --image_size, for example --image_size=64.")
    return int(smallest[0]), int(smallest[1])
