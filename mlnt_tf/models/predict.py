"""The mentor: the best network of an iteration, frozen; what it says of the data decides what is trained on next."""

import numpy as np
import tensorflow as tf

from mlnt_tf.models.surgery import feature_extractor

IN_MEMORY_BELOW = 2**30  # bytes of features


def predict_probabilities(network, batches):
    """Softmax of the network's logits on un-augmented batches {"image"}, evaluation mode: float32 [n, classes]."""
    logits = predict_batches(network, batches)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def accuracy(network, batches, labels):
    """Share of `labels` [n] that the network predicts on un-augmented `batches`."""
    return float(np.mean(predict_probabilities(network, batches).argmax(axis=1) == labels))


def extract_features(network, batches, features, *, count=0, path=None):
    """Features ("penultimate" or "logits") of un-augmented batches, evaluation mode: float32 [n, features].

    Args:
      count: n, where the features may be large: then those above IN_MEMORY_BELOW bytes are
      path: written to this .npy file, and memory-mapped.
    """
    with network.distribute_strategy.scope():
        extractor = feature_extractor(network, features)
    width = extractor.output_shape[-1]
    if 4 * count * width < IN_MEMORY_BELOW:
        return predict_batches(extractor, batches)
    table, start = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width)), 0
    for rows in iterate_outputs(extractor, batches):
        table[start:start + len(rows)] = rows
        start += len(rows)
    table.flush()
    return np.load(path, mmap_mode="r")


def predict_batches(network, batches):
    """The network's outputs on batches {"id", "image"}, evaluation mode, in order: float32 [n, ...]."""
    if network.distribute_strategy.num_replicas_in_sync == 1:
        return np.asarray(network.predict(batches.map(lambda batch: batch["image"]), verbose=0), np.float32)
    return np.concatenate(list(iterate_outputs(network, batches)))


def iterate_outputs(network, batches):
    """The same batch by batch; replicas, of every worker, share each batch. Rows of id -1 are left out."""
    strategy = network.distribute_strategy

    def share(batch):
        context = tf.distribute.get_replica_context()
        outputs = tf.cast(network(batch["image"], training=False), tf.float32)
        return context.all_gather(outputs, axis=0), context.all_gather(tf.identity(batch["id"]), axis=0)

    @tf.function
    def whole(batch):
        return strategy.run(share, args=(batch,))

    if strategy.num_replicas_in_sync == 1:
        yield from (network.predict_on_batch(batch["image"]) for batch in batches)
        return
    for batch in strategy.experimental_distribute_dataset(batches):
        outputs, ids = (strategy.experimental_local_results(value)[0].numpy() for value in whole(batch))
        yield outputs[ids >= 0]
