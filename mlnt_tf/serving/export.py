"""Exports a SavedModel that takes encoded images and needs neither Keras nor this package."""

import dataclasses
import pathlib
import shutil

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.data.images.decode import decode
from mlnt_tf.models.layers import in_float32
from mlnt_tf.models.normalization import SCALINGS
from mlnt_tf.models.saved_network import contains_normalization

LUMINANCE = (0.299, 0.587, 0.114)  # The sum is 1, so a gray image keeps its values.


def export_saved_model(network: keras.Model, directory, *, preprocess,
                       class_names) -> pathlib.Path:
    """Writes directory/1, the layout that TensorFlow Serving mounts.

    An existing export is replaced once the new one is complete. Every signature normalizes as in
    training, and computes in float32 at every precision of the network:

    - "serving_default" takes encoded images, string [batch]: JPEG, PNG, GIF, BMP or WebP of any
      size. They are resized and cropped.
    - "images" takes uint8 [batch, height, width, channels] of any height and width. They are
      resized and cropped.
    - "network_images" takes float32 [batch, height, width, channels] at the size of the network's
      input, with values in 0 to 255. It consists of the network alone, so it converts to other
      formats, such as TensorFlow Lite.

    All return float32 "probabilities" [batch, classes] and int32 "label" [batch]. The first two
    return string "class_name" [batch] too. "serving_default" also returns bool "valid" [batch]: an
    image that cannot be decoded is marked as not valid, has probabilities of 0, the label -1 and no
    class name, and does not affect the other images.

    Args:
      network: Keras model that maps float images [batch, height, width, channels] to logits
        [batch, classes]. One from a saved .keras file, which contains its normalization, is not
        normalized twice.
      directory: str or path, the parent of the version directory.
      preprocess: the `Preprocess` of the training images, with 1 or 3 channels.
      class_names: sequence of str, in the order of the logits.

    Returns:
      pathlib.Path, the version directory.

    Raises:
      ValueError: the number of class names differs from that of the logits.

    Example:

    ```python
    from mlnt_tf.data.transforms import Normalizer, Preprocess
    
    network = mlnt_tf.build_network(
        "cnn", width=4, input_shape=(8, 8, 1), num_classes=2, seed=0)
    mean = np.zeros([8, 8, 1], "float32")
    mlnt_tf.export_saved_model(
        network, directory, class_names=("cat", "dog"),
        preprocess=Preprocess((8, 8, 1), (8, 8, 1), Normalizer(mean)))
    ```
    """
    num_classes = network.output_shape[-1]
    if len(class_names) != num_classes:
        raise ValueError(f"class_names must contain a name for each of the {num_classes} logits. "
                         f"Received: {class_names}")
    if contains_normalization(network):
        preprocess = dataclasses.replace(preprocess, normalize=SCALINGS["none"])
    network = in_float32(network)
    archive = keras.export.ExportArchive()
    archive.track(network)
    _add_signatures(archive, network, preprocess, class_names)
    target = pathlib.Path(directory) / "1"
    scratch = target.with_name("writing")
    replaced = target.with_name("replaced")
    for leftover in (scratch, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    _write(archive, scratch)
    if target.exists():
        # Renaming leaves a complete export on disk if the process is killed in between.
        target.rename(replaced)
    scratch.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def _add_signatures(archive, network, preprocess, class_names):
    """Adds the signatures of `export_saved_model` to a `keras.export.ExportArchive`."""
    height, width, channels = preprocess.stored
    names = tf.constant([str(name).encode(errors="backslashreplace") for name in class_names])

    def classify_inputs(inputs):
        """Returns the outputs for normalized images."""
        logits = network(inputs, training=False)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": probabilities, "label": label}

    def classify(images):
        """Returns the outputs for uint8 images of the stored size."""
        images = tf.ensure_shape(images, [None, height, width, channels])
        batch = tf.shape(images)[0]
        # oneDNN's convolution fails on an empty batch, so it gets one black image.
        images = tf.pad(images, [[0, tf.maximum(1 - batch, 0)], [0, 0], [0, 0], [0, 0]])
        outputs = classify_inputs(preprocess(images))
        outputs = {name: output[:batch] for name, output in outputs.items()}
        return {**outputs, "class_name": tf.gather(names, outputs["label"])}

    def decode_and_resize(encoded):
        image = decode(encoded)
        if channels == 1:
            gray = tf.reduce_sum(tf.cast(image, tf.float32) * LUMINANCE, axis=-1, keepdims=True)
            image = tf.cast(tf.round(gray), tf.uint8)
        return preprocess.resize(image)

    def serving_default(image_bytes):
        images, valid = map_valid(decode_and_resize, image_bytes, preprocess.stored)
        outputs = classify(images)
        return {"probabilities": tf.where(valid[:, None], outputs["probabilities"], 0.0),
                "label": tf.where(valid, outputs["label"], -1),
                "class_name": tf.where(valid, outputs["class_name"], ""),
                "valid": valid}

    def classify_images(images):
        return classify(preprocess.resize(images))

    def classify_network_images(images):
        return classify_inputs(preprocess.normalize(images))

    # A REST client of TensorFlow Serving sends {"b64": ...} for each string. By Serving's
    # convention, the names of binary values end in _bytes.
    archive.add_endpoint("serving_default", serving_default,
                         [tf.TensorSpec([None], tf.string, name="image_bytes")])
    archive.add_endpoint("images", classify_images,
                         [tf.TensorSpec([None, None, None, channels], tf.uint8, name="images")])
    archive.add_endpoint("network_images", classify_network_images,
                         [tf.TensorSpec([None, *preprocess.shape], tf.float32, name="images")])


def map_valid(function, encoded, shape):
    """Maps a function that may fail over the elements of a batch, in a graph.

    Only tf.data can catch the error of an op, so the elements pass through a data set that leaves
    out those that fail.

    Args:
      function: function of a string scalar that returns a uint8 image [*shape].
      encoded: string [batch].
      shape: tuple of int, the shape of an image.

    Returns:
      (images, valid): uint8 [batch, *shape] and bool [batch]. Where the function fails, the image
      is 0 and not valid.
    """
    count = tf.size(encoded, out_type=tf.int64)
    mapped = tf.data.Dataset.from_tensor_slices(encoded).enumerate().map(
        lambda row, element: (row, function(element)), num_parallel_calls=tf.data.AUTOTUNE)
    # The last row, of zeros, stands for every failure. It also ensures that there is a row at all.
    failed = tf.data.Dataset.from_tensors((count, tf.zeros(shape, tf.uint8)))
    rows, images = mapped.ignore_errors().concatenate(failed).batch(count + 1).get_single_element()
    last = tf.size(rows) - 1
    positions = tf.tensor_scatter_nd_update(
        tf.fill(count[None], last), rows[:-1, None], tf.range(last))
    return tf.gather(images, positions), positions < last


def _write(archive, path):
    """Writes an archive without TensorFlow's log line for every file."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        archive.write_out(str(path), verbose=False)
    finally:
        logging.set_verbosity(verbosity)
