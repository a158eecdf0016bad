"""Turns the data that Keras's `fit` and `evaluate` accept into batches with named columns."""

import collections.abc
import dataclasses
import itertools

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.neighbors.labels import labels_of_neighbors

LABEL_COLUMNS = ("label", "true_label", "neighbor_labels", "position")


@dataclasses.dataclass(frozen=True)
class BatchFormat:
    """Converts one batch of any form that Keras accepts into a dict of columns.

    The forms are (image, label), (image, label, weight), a dict with "image" and "label", and
    {"meta": batch, "classification": batch}. Labels become int32, weights become float32. The
    values can be arrays, tensors or, to only check them, `tf.TensorSpec`.

    Attributes:
      num_classes: int.
      class_weight: tuple of float [classes] that multiplies the weights, or None.
    """

    num_classes: int
    class_weight: tuple | None = None

    def __call__(self, *data):
        """Returns the batch. A data set's elements arrive as one argument or as several.

        Raises:
          ValueError: a column is missing, or the labels or weights have the wrong shape or type.
        """
        batch = as_columns(*data)
        if "meta" in batch:
            unweighted = dataclasses.replace(self, class_weight=None)
            return {"meta": unweighted(batch["meta"]),
                    "classification": self(batch["classification"])}
        check_label_column(batch["label"], self.num_classes)
        for name in LABEL_COLUMNS:
            if name in batch:
                batch[name] = _cast(batch[name], np.int32)
        if "weight" in batch:
            batch["weight"] = _cast(_check_weights(batch["weight"]), np.float32)
        if self.class_weight is not None and not isinstance(batch["label"], tf.TensorSpec):
            factor = _look_up(self.class_weight, batch["label"])
            batch["weight"] = factor * batch.get("weight", 1)
        return batch

    def convert(self, data, *, argument="x"):
        """Returns data whose elements are such batches.

        Args:
          data: tf.data.Dataset, PyDataset, generator, distributed data set or dict of arrays.
          argument: str, the name of the data in errors.

        Raises:
          ValueError: the elements cannot be converted.
        """
        if isinstance(data, tf.data.Dataset):
            spec = data.element_spec
            parts = spec if isinstance(spec, tuple) else (spec,)
            if self(*parts) == spec and self.class_weight is None:
                return data
            return data.map(self._convert_and_check, num_parallel_calls=tf.data.AUTOTUNE)
        if isinstance(data, keras.utils.PyDataset):
            return _ConvertedPyDataset(data, self)
        if isinstance(data, collections.abc.Iterator) and not isinstance(data, tf.data.Iterator):
            return _dataset_of(self(*_parts(element)) for element in data)
        if self.class_weight is not None:
            raise ValueError("class_weight needs arrays, a tf.data.Dataset, a PyDataset or a "
                             f"generator. Received: {argument} of type {type(data).__name__}")
        return data

    def _convert_and_check(self, *data):
        """Converts an element of a data set, whose labels are only known while it is iterated."""
        batch = self(*data)
        if "label" in batch:
            tf.debugging.assert_less(
                batch["label"], self.num_classes,
                f"The network has {self.num_classes} outputs, so labels must lie in 0 to "
                f"{self.num_classes - 1}.")
        return batch

    def convert_arrays(self, x, y, sample_weight, neighbors=None):
        """Returns the columns of arrays, each checked, with one row per example.

        Raises:
          ValueError: as for a call, and if a label is outside 0 ... classes - 1 or the columns
            differ in length.
        """
        data = as_columns(x, y, sample_weight)
        batch = self({name: _array(column) for name, column in data.items()})
        lengths = {name: len(column) for name, column in batch.items()}
        if len(set(lengths.values())) > 1 or not len(batch["label"]):
            raise ValueError("All columns need the same number of rows, at least one. "
                             f"Received: {lengths}")
        _check_label_range(batch["label"], self.num_classes)
        if neighbors is not None:
            labels = np.asarray(batch["label"])
            batch["neighbor_labels"] = labels_of_neighbors(labels, neighbors)
        return batch


def as_columns(x, y=None, sample_weight=None):
    """Returns a dict of the columns, unchecked but for missing ones.

    Raises:
      ValueError: there is no image or no label.
    """
    batch = dict(x) if isinstance(x, collections.abc.Mapping) else {"image": x}
    if "meta" in batch and "classification" in batch:
        return batch
    if y is not None:
        batch["label"] = y
    if sample_weight is not None:
        batch["weight"] = sample_weight
    if "image" not in batch or "label" not in batch:
        raise ValueError("A batch is (image, label), or a dict with 'image', 'label' and, for "
                         "neighbors that are not searched in the batch, 'neighbor_labels'. "
                         f"Received: {', '.join(map(repr, batch))} without "
                         f"{'label' if 'image' in batch else 'image'}")
    return batch


def check_label_column(labels, num_classes):
    """Raises ValueError unless the labels are integers of shape [batch]."""
    shape, dtype = labels.shape, tf.as_dtype(labels.dtype)
    if getattr(shape, "rank", 0) is None:  # Only known while training.
        return
    received = f"Received: labels of shape {tuple(shape)}, dtype {dtype.name}"
    if len(shape) == 2 and shape[1] == num_classes:
        raise ValueError("Labels are class numbers of shape [batch], not one-hot rows. Use "
                         f"labels.argmax(axis=1), or label_mode='int'. {received}")
    if len(shape) != 1:
        raise ValueError("Labels must have the shape [batch]. A column [batch, 1] becomes one with "
                         f"labels[:, 0]. {received}")
    if not dtype.is_integer:
        raise ValueError("Labels must be integers, for example after labels.astype('int32'). "
                         f"{received}")


def _check_label_range(labels, num_classes):
    lowest, highest = int(np.min(labels)), int(np.max(labels))
    if lowest < 0 or highest >= num_classes:
        raise ValueError(f"The network has {num_classes} outputs, so labels must lie in 0 to "
                         f"{num_classes - 1}. Received: labels from {lowest} to {highest}")


def _check_weights(weights):
    if len(weights.shape) != 1:
        raise ValueError("Weights must have the shape [batch]: one number per example. "
                         f"Received: shape {tuple(weights.shape)}")
    return weights


def class_weight_table(class_weight, num_classes):
    """Returns Keras's class_weight as a tuple of float [classes], or None. A class that is not
    listed has the weight 1.

    Raises:
      ValueError: it is not a dict of class numbers to finite weights of at least 0.
    """
    if class_weight is None:
        return None
    is_dict = isinstance(class_weight, collections.abc.Mapping)
    known = range(num_classes)
    if not is_dict or not all(label in known and np.isfinite(weight) and weight >= 0
                              for label, weight in class_weight.items()):
        raise ValueError(f"class_weight must be a dict from 0 to {num_classes - 1} to weights of "
                         f"at least 0. Received: class_weight={class_weight!r}")
    return tuple(float(class_weight.get(label, 1.0)) for label in known)


def is_arrays(x):
    """Whether the data are an array or a dict of arrays, with one row per example."""
    if isinstance(x, collections.abc.Mapping):
        return bool(x) and all(map(is_arrays, x.values()))
    if isinstance(x, (tf.data.Dataset, tf.data.Iterator)):
        return False
    return tf.is_tensor(x) or isinstance(x, (list, tuple)) or hasattr(x, "__array__")


def split_columns(columns, validation_split):
    """Returns (training columns, validation columns): the last rows validate, as in Keras.

    Raises:
      ValueError: one of the two would be empty.
    """
    count = len(columns["label"])
    boundary = int(count * (1 - validation_split))
    if not 0 < boundary < count:
        raise ValueError("validation_split must leave examples for training and for validation. "
                         f"Received: {validation_split=} of {count} examples")
    return ({name: column[:boundary] for name, column in columns.items()},
            {name: column[boundary:] for name, column in columns.items()})


class _ConvertedPyDataset(keras.utils.PyDataset):
    """A `keras.utils.PyDataset` whose batches are converted."""

    def __init__(self, source, convert):
        super().__init__(workers=source.workers, use_multiprocessing=source.use_multiprocessing,
                         max_queue_size=source.max_queue_size)
        self.source = source
        self.convert = convert

    @property
    def num_batches(self):
        return self.source.num_batches

    def __getitem__(self, index):
        return self.convert(*_parts(self.source[index]))

    def on_epoch_begin(self):
        self.source.on_epoch_begin()

    def on_epoch_end(self):
        self.source.on_epoch_end()


def _dataset_of(generator):
    """Returns a generator of batches as a tf.data.Dataset, which can be iterated once."""
    first = next(generator, None)
    if first is None:
        raise ValueError("The data need at least one batch. Received: an empty generator")
    signature = {name: tf.TensorSpec([None, *column.shape[1:]], column.dtype)
                 for name, column in first.items()}
    rest = itertools.chain([first], generator)
    return tf.data.Dataset.from_generator(lambda: rest, output_signature=signature)


def _parts(element):
    return element if isinstance(element, (tuple, list)) else (element,)


def _look_up(table, labels):
    """Returns the entries of a table of float at labels, which are a tensor or an array."""
    if tf.is_tensor(labels):
        return tf.gather(tf.constant(table, tf.float32), labels)
    return np.asarray(table, np.float32)[labels]


def _array(column):
    """Returns an array or tensor. Double precision becomes single precision."""
    if not tf.is_tensor(column):
        column = np.asarray(column)
    return _cast(column, np.float32) if column.dtype == np.float64 else column


def _cast(column, dtype):
    if isinstance(column, tf.TensorSpec):
        return tf.TensorSpec(column.shape, dtype, column.name)
    if tf.is_tensor(column):
        return tf.cast(column, dtype)
    return np.asarray(column).astype(dtype, copy=False)
