"""--dataset=folder: a directory of images for each class."""

import os

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, data_directory, build_source

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def load_folder(config):
    """--dataset=folder: DIR/CLASS/…/image, or DIR/{train,val,test}/CLASS/…/image; classes in the order of their names."""
    root = data_directory(config)
    subdirectories = {entry: SPLIT_NAMES.get(entry.lower()) for entry in sorted(os.listdir(root))
                      if os.path.isdir(root / entry)}
    has_splits = any(name == "train" and any(entry.is_dir() for entry in os.scandir(root / directory))
                     for directory, name in subdirectories.items())  # not so where a class is called train
    trees = {name: entry for entry, name in subdirectories.items() if name} if has_splits else {"train": ""}
    twins = [entry for entry, name in subdirectories.items() if has_splits and name and trees[name] != entry]
    if twins:
        raise UserError(f"--data_dir={root} holds {trees[SPLIT_NAMES[twins[0].lower()]]} and {twins[0]}, one split under "
                        "two names: put them together in one directory.")
    classes = sorted({entry for tree in trees.values() for entry in os.listdir(root / tree)
                      if os.path.isdir(root / tree / entry) and not entry.startswith(".")})
    if len(classes) < 2:
        raise UserError(f"--data_dir={root}: found {len(classes)} class directories; lay the images out as "
                        "DIR/CLASS/image.jpg or DIR/train/CLASS/image.jpg, two classes at least.")
    listings = {}
    for name, tree in trees.items():
        try:
            rows = [(path, label, -1) for label, directory in enumerate(classes)
                    for path in image_files(root, os.path.join(tree, directory))]
        except OSError as error:
            raise UserError(f"--data_dir={root}: {error.filename} cannot be read ({error.strerror}): make it readable, "
                            "or move it away.") from error
        if rows:
            listings[name] = Listing.of(rows)
    return build_source(config, root, tuple(classes), listings)


def image_files(root, directory):
    """Paths, relative to the root, of the image files under a directory, sorted; each directory is entered once,
    however many links lead there."""
    found, waiting, entered = [], [directory], set()
    while waiting:
        current = waiting.pop()
        status = os.stat(root / current) if os.path.isdir(root / current) else None
        if status is None or (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in sorted(os.scandir(root / current), key=lambda entry: entry.name):
            path = os.path.join(current, entry.name)
            try:
                is_directory = entry.is_dir()
            except OSError:  # a link to itself
                continue
            if is_directory:
                waiting.append(path)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                found.append(path)
    return sorted(found)
