"""`mlnt_tf.run`: the command `python -m mlnt_tf.train` as one call, also for arrays and networks.

The settings name the functions `data` and `network` of this module, which return what the call was
given. The run directory is therefore that of any other run, and the same call resumes it.
"""

import contextvars
import dataclasses
import inspect

import keras
import numpy as np

from mlnt_tf import runner
from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Source, Split, hold_out_test
from mlnt_tf.labels.validation import check_labels
from mlnt_tf.training.keras_internals import preserved_seeds

DATA, NETWORK = f"{__name__}:data", f"{__name__}:network"
SPLITS = ("train", "validation", "test")
_given = contextvars.ContextVar("data and model of mlnt_tf.run")


def run(config: Config, data=None, model=None) -> dict:
    """Trains as the settings ask, and exports the selected network: the command in one call.

    An interrupted call resumes when it is repeated. Keras's dtype policy and the seeds of Python,
    NumPy, TensorFlow and Keras are restored at the end. Source: section 3.3 of the paper, for
    method="mlnt".

    Args:
      config: a `Config`. Its output_dir receives all files, by default runs/arrays with `data`.
      data: (x, y), or a dict of such pairs with the keys "train", "validation" and "test", of which
        only "train" is required. Without a test set, config.test_fraction of the examples are held
        out. x is uint8 [n, height, width, channels], 0 to 255, or float in [0, 1], which is stored
        as uint8; y is int [n]. None means the data set that config.dataset names.
      model: a function that returns a built Keras network with logits and takes any of the
        arguments input_shape, num_classes and width; or a built network, which is cloned with its
        weights. None means the network that config.model names.

    Returns:
      dict, the contents of results.json.

    Raises:
      ValueError: the data have the wrong shape, type or range.
      UserError: a mistake in the settings or in the directory.
      NonFiniteLoss, DiskError: training diverged, or the output cannot be written.

    Example:

    ```python
    x, y = np.random.randint(256, size=[60, 8, 8, 1], dtype="uint8"), np.arange(60) % 3
    config = mlnt_tf.Config(method="cross_entropy", epochs=1, batch_size=8, output_dir=directory)
    results = mlnt_tf.run(config, data=(x, y))
    results["test_accuracy"]
    ```
    """
    changes = {}
    if data is not None:
        data = _splits(data)
        changes["dataset"] = DATA
        if config.output_dir == Config().output_dir:
            changes["output_dir"] = "runs/arrays"
    if model is not None:
        if not callable(model):
            raise ValueError("model must be a function that returns a network, or a network. "
                             f"Received: {type(model).__name__}")
        changes["model"] = NETWORK
    token = _given.set((data, model))
    try:
        with preserved_seeds():
            return runner.run(dataclasses.replace(config, **changes))
    finally:
        _given.reset(token)


def data(config):
    """Returns the `Source` of the arrays that the running call of `run` was given."""
    arrays, _ = _current("dataset")
    num_classes = max(int(labels.max()) for _, labels in arrays.values()) + 1
    splits, first_id = {}, 0
    for name, (images, labels) in arrays.items():
        ids = np.arange(first_id, first_id + len(labels))
        first_id += len(labels)
        records = np.array([f"{name}[{row}]" for row in range(len(labels))])
        splits[name] = Split(ids=ids, labels=labels, records=records,
                             images=ArrayImages(images, size=config.resized))
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out_test(splits["train"], config.test_fraction)
    class_names = tuple(map(str, range(num_classes)))
    return Source(class_names, splits["train"], splits["test"], splits.get("validation"))


def network(width, input_shape, num_classes):
    """Returns a new network from what the running call of `run` was given."""
    _, model = _current("model")
    if isinstance(model, keras.Model):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy
    available = {"width": width, "input_shape": input_shape, "num_classes": num_classes}
    parameters = inspect.signature(model).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return model(**{name: value for name, value in available.items()
                    if takes_all or name in parameters})


def _current(flag):
    given = _given.get(None)
    if given is None:
        raise UserError(f"--{flag} names data or a network of a call of mlnt_tf.run, which a "
                        "command does not have. Repeat the call in Python.")
    return given


def _splits(data):
    """Returns {split: (uint8 images [n, height, width, channels], int32 labels [n])}."""
    if not isinstance(data, dict):
        data = {"train": data}
    if "train" not in data or not set(data) <= set(SPLITS):
        raise ValueError("data must be (x, y), or a dict with the key 'train' and, if there are "
                         f"any, 'validation' and 'test'. Received: the keys {list(data)}")
    splits = {}
    for name, pair in data.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"The {name} data must be a pair (x, y). "
                             f"Received: {type(pair).__name__}")
        images, labels = _images(pair[0]), check_labels(pair[1]).astype(np.int32)
        if len(images) != len(labels):
            raise ValueError("x and y need one row per example. "
                             f"Received: {len(images)} and {len(labels)} rows in {name}")
        splits[name] = images, labels
    return splits


def _images(x):
    """Returns images as uint8 [n, height, width, channels].

    Raises:
      ValueError: they have another rank, or are floats outside [0, 1].
    """
    x = np.asarray(x)
    if x.ndim == 3:
        x = x[..., None]
    received = f"Received: shape {x.shape}, dtype {x.dtype}"
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise ValueError("x must have the shape [n, height, width, channels] with 1 or 3 channels. "
                         f"{received}")
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f" or not (x.min() >= 0 and x.max() <= 1):
        raise ValueError("x must be uint8 from 0 to 255, or float from 0 to 1. "
                         f"{received}, values {x.min()} to {x.max()}")
    return np.round(255 * x).astype(np.uint8)
