"""The mentor: the best network of an iteration, frozen; what it says of the data decides what is trained on next."""

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import files
from mlnt_tf.config import UserError
from mlnt_tf.models.registry import feature_extractor

IN_MEMORY_BELOW = 2**30  # bytes of features


def predict(network, batches):
    """Softmax of the network's logits on un-augmented batches {"image"}, evaluation mode: float32 [n, classes]."""
    logits = outputs_of(network, batches)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def accuracy(network, batches, labels):
    """Share of `labels` [n] that the network predicts on un-augmented `batches`."""
    return float(np.mean(predict(network, batches).argmax(axis=1) == labels))


def embed(network, batches, features, *, count=0, path=None):
    """Features ("penultimate" or "logits") of un-augmented batches, evaluation mode: float32 [n, features].

    Args:
      count: n, where the features may be large: then those above IN_MEMORY_BELOW bytes are
      path: written to this .npy file, and memory-mapped.
    """
    with network.distribute_strategy.scope():
        extractor = feature_extractor(network, features)
    width = extractor.output_shape[-1]
    if 4 * count * width < IN_MEMORY_BELOW:
        return outputs_of(extractor, batches)
    table, start = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width)), 0
    for rows in batches_of_outputs(extractor, batches):
        table[start:start + len(rows)] = rows
        start += len(rows)
    table.flush()
    return np.load(path, mmap_mode="r")


def outputs_of(network, batches):
    """The network's outputs on batches {"id", "image"}, evaluation mode, in order: float32 [n, ...]."""
    if network.distribute_strategy.num_replicas_in_sync == 1:
        return np.asarray(network.predict(batches.map(lambda batch: batch["image"]), verbose=0), np.float32)
    return np.concatenate(list(batches_of_outputs(network, batches)))


def batches_of_outputs(network, batches):
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


def kept_table(path, compute):
    """The array that an earlier call left in the .npy file `path`, or a new one, written there."""
    if path.exists():
        return np.load(path)
    array = compute()
    with files.whole(path) as scratch:
        np.save(scratch, array)
    return array


def probability_of(labels, probabilities):
    """What predictions [n, classes] say of labels [n]: float32 [n]."""
    return probabilities[np.arange(len(labels)), labels]


def trusted(probability_of_given, tau):
    """Which samples the filter keeps: probability strictly above tau (section 3.3); bool [n]."""
    return probability_of_given > tau


def describe_filter(kept, given, true, class_names, tau):
    """Checks and counts the filter's work, warning of each class it leaves empty.

    Args:
      kept: bool [n].
      given, true: int32 [n].
      class_names, tau: for the warning.

    Returns:
      as `count_filter`.

    Raises:
      UserError: nothing is kept.
    """
    if not kept.any():
        raise UserError(f"--tau={tau} keeps none of the {len(kept)} training examples: lower --tau, and name another "
                        "--output_dir.")
    per_class = np.bincount(given[kept], minlength=len(class_names))
    empty = [f"{name} (0 of {int((given == index).sum())})"
             for index, name in enumerate(class_names) if not per_class[index]]
    if empty:
        logging.warning("--tau=%s leaves no example of %s; counts kept per class: %s. Lower --tau to keep them.",
                        tau, ", ".join(empty), per_class.tolist())
    return count_filter(kept, given, true)


def count_filter(kept, given, true):
    """{"kept": count, "filter_precision": clean share of the kept, "filter_recall": kept share of the clean}.

    Among those whose true label is known (not -1); a share of nothing is None. All bool or int32 [n].
    """
    known, clean = true >= 0, given == true
    return {"kept": int(kept.sum()),
            "filter_precision": float(clean[kept & known].mean()) if (kept & known).any() else None,
            "filter_recall": float(kept[clean].mean()) if clean.any() else None}
