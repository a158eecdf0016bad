"""Predictions and features of a network on un-augmented images, on any number of replicas."""

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.files.disk import create_memory_map
from mlnt_tf.models.submodels import feature_extractor
from mlnt_tf.progress import Progress

IN_MEMORY_BELOW = 2**30  # Bytes of features. Larger ones are memory-mapped.


def predict_probabilities(network, batches):
    """Returns the softmax of the network's logits in evaluation mode: float32 [n, classes].

    Args:
      network: Keras model that maps images to logits [batch, classes].
      batches: `tf.data.Dataset` of un-augmented batches {"id", "image"}. A single replica does not
        need "id".
    """
    return softmax(predict_batches(network, batches))


def softmax(logits):
    """Returns the probabilities of logits [n, classes]."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def accuracy(network, batches, labels):
    """Returns the fraction of `labels` (int [n]) that the network predicts: float in [0, 1].

    Args:
      network, batches: as for `predict_probabilities`.
      labels: int [n].
    """
    predicted = predict_probabilities(network, batches).argmax(axis=1)
    return float(np.mean(predicted == labels))


def extract_features(network, batches, features, *, count=0, path=None):
    """Returns the features of un-augmented images in evaluation mode: float32 [n, features].

    Args:
      network, batches: as for `predict_probabilities`.
      features: "penultimate" or "logits", see `feature_extractor`.
      count: int, n, if the features may be too large for memory.
      path: str or path of a .npy file. Features of IN_MEMORY_BELOW bytes or more are written to it
        and memory-mapped. Needed if `count` is given.
    """
    with network.distribute_strategy.scope():
        extractor = feature_extractor(network, features)
    width = extractor.output_shape[-1]
    if 4 * count * width < IN_MEMORY_BELOW:
        return predict_batches(extractor, batches)
    write_outputs(extractor, batches, path, count=count)
    return np.load(path, mmap_mode="r")


def write_outputs(network, batches, path, *, count, task="outputs"):
    """Streams the network's outputs in evaluation mode to a .npy file, float32 [count, outputs].

    Logs the progress every 10 s.

    Args:
      network, batches: as for `predict_probabilities`.
      path: str or path of the file.
      count: int, the number of images.
      task: str, the name of the computation in the log.
    """
    progress = Progress(count, interval=10.0)
    shape = (count, network.output_shape[-1])
    table = create_memory_map(path, shape, np.float32)
    start = 0
    for rows in iterate_outputs(network, batches):
        table[start:start + len(rows)] = rows
        start += len(rows)
        progress.add(len(rows))
        progress.log_if_due(task)
    table.flush()


def features_and_logits(network):
    """Returns a model of an image's [features, logits], for both in one pass; both are float32.

    Args:
      network: as for `predict_probabilities`. Features are those of the penultimate layer, or the
        logits if the last layer has several inputs, as in the exact form of CNN-CRF.
    """
    with network.distribute_strategy.scope():
        logits = keras.ops.cast(network.outputs[0], "float32")
        try:
            features = feature_extractor(network).outputs[0]
        except ValueError:
            features = logits
        return keras.Model(network.inputs, [features, logits])


def predict_batches(network, batches):
    """Returns the network's outputs in evaluation mode, in the order of the data: float32 [n, ...].

    Args:
      network, batches: as for `predict_probabilities`.
    """
    if network.distribute_strategy.num_replicas_in_sync == 1:
        images = batches.map(lambda batch: batch["image"])
        return np.asarray(network.predict(images, verbose=0), np.float32)
    return np.concatenate(list(iterate_outputs(network, batches)))


def iterate_outputs(network, batches):
    """Yields the outputs batch by batch, in evaluation mode: float32 [batch, ...].

    With several replicas, they share each batch, and padding rows (id -1) are dropped. A network
    with several outputs yields a list of them.
    """
    strategy = network.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        for batch in batches:
            yield network.predict_on_batch(batch["image"])
        return

    def predict_part(batch):
        context = tf.distribute.get_replica_context()
        outputs = tf.nest.map_structure(
            lambda output: context.all_gather(tf.cast(output, tf.float32), axis=0),
            network(batch["image"], training=False))
        return outputs, context.all_gather(tf.identity(batch["id"]), axis=0)

    @tf.function
    def predict_global_batch(batch):
        return strategy.run(predict_part, args=(batch,))

    for batch in strategy.experimental_distribute_dataset(batches):
        # After all_gather, every replica has the complete batch.
        outputs, ids = tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0].numpy(),
            predict_global_batch(batch))
        yield tf.nest.map_structure(lambda output: output[ids >= 0], outputs)
