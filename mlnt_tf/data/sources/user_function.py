"""--dataset=package.module:function: a data set of the user's own."""

import numpy as np

from mlnt_tf.config import UserError, call_function
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Source, Split


def load_function(config):
    """--dataset=package.module:function, which takes the Config, by the name `config`, and returns a Source.

    Raises:
      UserError: it returns no Source, or one that nothing can be trained on.
    """
    source = call_function("dataset", config.dataset, config=config)
    if not isinstance(source, Source):
        raise UserError(f"--dataset={config.dataset} returned {type(source).__name__}: it must return a "
                        "mlnt_tf.data.splits.Source.")
    count = len(source.class_names)
    if count < 2:
        raise UserError(f"--dataset={config.dataset}: class_names has {count}: two classes are needed.")
    for name in ("train", "validation", "test"):
        split = getattr(source, name)
        wrong = None if split is None and name == "validation" else find_fault(split, count)
        if wrong:
            raise UserError(f"--dataset={config.dataset}: the {name} split's {wrong}.")
    return source


def find_fault(split, num_classes):
    """What is wrong with a split of the user's making, and the fix; None if nothing is."""
    if not isinstance(split, Split):
        return f"type is {type(split).__name__}: it must be a mlnt_tf.data.splits.Split"
    columns = {name: getattr(split, name) for name in ("ids", "labels", "records", "true_labels", "digests")}
    for name, column in columns.items():
        if column is None and name == "digests":
            continue
        if not isinstance(column, np.ndarray) or column.ndim != 1:
            return f"{name} are no NumPy array of rank 1: make them one"
        if name != "records" and column.dtype.kind not in "iu":
            return f"{name} are {column.dtype}: they must be integers"
    lengths = {name: len(column) for name, column in {**columns, "images": split.images}.items() if column is not None}
    if len(set(lengths.values())) > 1:
        return f"columns differ in length ({', '.join(f'{name} {n}' for name, n in lengths.items())}): one of each per image"
    if not len(split):
        return "columns are empty: at least one image is needed"
    if split.ids[0] < 0 or (split.ids[1:] <= split.ids[:-1]).any():
        return "ids do not ascend, each once, from 0 or above: np.arange(n) does"
    for name, least in (("labels", 0), ("true_labels", -1)):
        outside = columns[name][(columns[name] < least) | (columns[name] >= num_classes)]
        if len(outside):
            return f"{name} have {outside[0]}: they must be {least} to {num_classes - 1} for {num_classes} class names"
    if isinstance(split.images, ArrayImages):
        array = split.images.array
        if array.dtype != np.uint8:
            return f"images are {array.dtype}: they must be uint8, 0 to 255 (of 0 to 1: np.round(255 * x).astype(np.uint8))"
        if array.ndim != 4 or array.shape[3] not in (1, 3):
            return f"images have shape {array.shape}: it must be [n, height, width, channels], of 1 or 3 channels"
    return None
