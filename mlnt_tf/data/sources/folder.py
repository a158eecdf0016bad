"""--dataset=folder: a directory of images for each class."""

import os

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, build_source, data_directory

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def load_folder(config):
    """Returns the `Source` of a directory tree of images.

    The tree is DIR/CLASS/…/image or DIR/{train,val,test}/CLASS/…/image. Classes are in the order of
    their names.

    Raises:
      UserError: the tree has another layout or cannot be read; see also `build_source`.
    """
    return build_source(config, *list_folder(config))


def list_folder(config):
    """Lists the image files of a directory tree, without reading them.

    Returns:
      (root, class names, listings), the arguments of `build_source`.

    Raises:
      UserError: the tree has another layout or cannot be read.
    """
    root = data_directory(config)
    directories = _split_directories(root)
    classes = sorted({entry for directory in directories.values()
                      for entry in _subdirectories(root / directory) if not entry.startswith(".")})
    if len(classes) < 2:
        raise UserError(f"--data_dir={root} has {len(classes)} class directories, but training "
                        "needs at least two. Arrange the images as DIR/CLASS/image.jpg or "
                        "DIR/train/CLASS/image.jpg.")
    listings = {}
    for split, directory in directories.items():
        rows = _list_images(root, directory, classes)
        if rows:
            listings[split] = Listing.from_rows(rows)
    return root, tuple(classes), listings


def _subdirectories(directory):
    return sorted(entry for entry in os.listdir(directory) if os.path.isdir(directory / entry))


def _split_directories(root):
    """Returns {split: name of its directory}, or {"train": ""} if there are only classes.

    Raises:
      UserError: one split has two directories, such as val and valid.
    """
    names = {entry: SPLIT_NAMES[entry.lower()] for entry in _subdirectories(root)
             if entry.lower() in SPLIT_NAMES}
    # A class may be called "train". Unlike a split, its directory has no subdirectories.
    if not any(split == "train" and _subdirectories(root / entry)
               for entry, split in names.items()):
        return {"train": ""}
    directories = {}
    for entry, split in names.items():
        if split in directories:
            raise UserError(f"--data_dir={root} holds {directories[split]} and {entry}, which are "
                            f"both names of the {split} split. Move the images into one of them.")
        directories[split] = entry
    return directories


def _list_images(root, directory, classes):
    """Returns (path, label, -1) of all images under directory/CLASS, by class and path."""
    try:
        return [(path, label, -1) for label, name in enumerate(classes)
                for path in _image_files(root, os.path.join(directory, name))]
    except OSError as error:
        raise UserError(f"--data_dir={root}: {error.filename} cannot be read ({error.strerror}). "
                        "Make it readable, or move it elsewhere.") from error


def _image_files(root, directory):
    """Returns the paths of the image files under a directory, relative to the root and sorted.

    A directory that several links lead to is listed once, so a loop of links ends.
    """
    paths, pending, visited = [], [directory], set()
    while pending:
        current = pending.pop()
        if not os.path.isdir(root / current):
            continue
        status = os.stat(root / current)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(root / current), key=lambda entry: entry.name):
            path = os.path.join(current, entry.name)
            try:
                is_directory = entry.is_dir()
            except OSError:  # A link to itself.
                continue
            if is_directory:
                pending.append(path)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                paths.append(path)
    return sorted(paths)
