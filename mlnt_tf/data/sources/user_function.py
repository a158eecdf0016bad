"""--dataset=package.module:function: a data set that the user's own function returns."""

import numpy as np

from mlnt_tf.config import UserError, call_function
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Source, Split


def load_function(config):
    """Calls the function that --dataset names and checks what it returns.

    The function takes the `Config` as the keyword argument `config` and returns a `Source`.

    Returns:
      `Source`.

    Raises:
      UserError: the function fails, or its result cannot be trained on.
    """
    source = call_function("dataset", config.dataset, config=config)
    if not isinstance(source, Source):
        raise UserError(f"--dataset={config.dataset} returned {type(source).__name__}, but it must "
                        "return an mlnt_tf.data.splits.Source.")
    num_classes = len(source.class_names)
    if num_classes < 2:
        raise UserError(f"--dataset={config.dataset} returned {num_classes} class names. Training "
                        "needs at least two classes.")
    for name in ("train", "validation", "test"):
        split = getattr(source, name)
        if name == "validation" and split is None:
            continue
        fault = _find_fault(split, num_classes)
        if fault:
            raise UserError(f"--dataset={config.dataset} returned a {name} split whose {fault}")
    return source


def _find_fault(split, num_classes):
    """Returns the first fault of a split and its fix, which continue "a split whose", or None."""
    if not isinstance(split, Split):
        return f"type is {type(split).__name__}. It must be mlnt_tf.data.splits.Split."
    return (_find_fault_of_columns(split) or _find_fault_of_ids(split.ids)
            or _find_fault_of_labels("labels", split.labels, 0, num_classes)
            or _find_fault_of_labels("true_labels", split.true_labels, -1, num_classes)
            or _find_fault_of_images(split.images))


def _find_fault_of_columns(split):
    columns = {"ids": split.ids, "labels": split.labels, "records": split.records,
               "true_labels": split.true_labels}
    for name in ("digests", "groups"):
        if getattr(split, name) is not None:
            columns[name] = getattr(split, name)
    for name, column in columns.items():
        if not isinstance(column, np.ndarray) or column.ndim != 1:
            return f"{name} are not a NumPy array of rank 1. Convert them with np.asarray."
        if name != "records" and column.dtype.kind not in "iu":
            return f"{name} have dtype {column.dtype}. They must be integers."
    lengths = {name: len(column) for name, column in columns.items()}
    lengths["images"] = len(split.images)
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return f"columns differ in length ({text}). Each needs one entry per image."
    if not len(split):
        return "columns are empty. Training needs at least one image."
    return None


def _find_fault_of_ids(ids):
    if ids[0] < 0 or (ids[1:] <= ids[:-1]).any():
        return "ids are not ascending, different and at least 0. Use np.arange(n)."
    return None


def _find_fault_of_labels(name, labels, minimum, num_classes):
    outside = labels[(labels < minimum) | (labels >= num_classes)]
    if not len(outside):
        return None
    return (f"{name} contain {outside[0]}. They must be {minimum} to {num_classes - 1} for "
            f"{num_classes} class names.")


def _find_fault_of_images(images):
    if not isinstance(images, ArrayImages):
        return None
    array = images.array
    if array.dtype != np.uint8:
        return (f"images have dtype {array.dtype}. They must be uint8, 0 to 255. Convert values in "
                "[0, 1] with np.round(255 * x).astype(np.uint8).")
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        return (f"images have shape {array.shape}. It must be [n, height, width, channels] with 1 "
                "or 3 channels.")
    return None
