"""The TFDS builder that converts the released Clothing1M to shards.

Reading the shards needs TFDS only, not this module.
"""

import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mlnt_tf.data.images.scan import scan_files
from mlnt_tf.data.images.storage import FileImages
from mlnt_tf.data.sources.clothing1m import read_release


class Clothing1m(tfds.core.GeneratorBasedBuilder):
    """Clothing1M with unchanged image files, given labels and, where known, true labels.

    Images that cannot be decoded are left out.
    """

    name = "clothing1m"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the authors for Clothing1M. manual_dir must hold its lists and its images.")

    def _info(self):
        return self.dataset_info_from_configs(
            description="A million photographs of clothes with noisy labels, and some with clean "
                        "ones.",
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(),
                "true_label": np.int64,  # -1 where unknown
                "key": tfds.features.Text(),  # the path in the release
            }),
            supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        root = pathlib.Path(dl_manager.manual_dir)
        class_names, listings = read_release(root, "--source_dir")
        self.info.features["label"].names = list(class_names)
        return {split: self._generate_examples(root, listing)
                for split, listing in listings.items()}

    def _generate_examples(self, root, listing):
        scan = scan_files(FileImages(listing.paths, root=str(root), size=(1, 1)))
        for row in np.flatnonzero(scan.good):
            key = os.fsdecode(listing.paths[row])
            yield key, {"image": str(root / key), "label": int(listing.labels[row]),
                        "true_label": int(listing.true_labels[row]), "key": key}
