"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish.

Reference: the EfficientNet-Lite models of github.com/tensorflow/tpu (2020); EfficientNet: Tan and
Le, ICML 2019. Layers have the names of `keras.applications.EfficientNetB0` where both have them.
"""

import keras

from mlnt_tf.models.layers import FusedBatchNormalization
from mlnt_tf.models.resnet import classifier

STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
STAGES = (  # expansion, channels, blocks, stride of the first block, kernel size
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))


def efficientnet_lite0(*, input_shape, num_classes, width=None):
    """Returns EfficientNet-Lite0 with 1,280 penultimate features.

    It has 3,371,008 trainable parameters up to the features. Convolutions have no bias and use
    TensorFlow's "same" padding, so any image size works.

    Args:
      input_shape: (height, width, channels).
      num_classes: int, the number of logits.
      width: ignored. The number of channels is fixed.

    Returns:
      A functional model from float images [batch, height, width, channels] to float32 logits
      [batch, classes].
    """
    del width
    images = keras.Input(input_shape)
    x = conv_norm(images, STEM_CHANNELS, 3, stride=2, name="stem")
    x = relu6(x, name="stem_activation")
    names = iter(block_names())
    for expansion, channels, blocks, stride, size in STAGES:
        for block in range(blocks):
            x = inverted_residual(x, channels, expansion=expansion, size=size,
                                  stride=1 if block else stride, name=next(names))
    x = conv_norm(x, HEAD_CHANNELS, 1, name="top")
    x = relu6(x, name="top_activation")
    # Features have a squared norm of about 1,000, so that Keras's default kernel begins with large
    # logits, which costs several points of accuracy after fine-tuning on noisy labels.
    return classifier(images, x, num_classes, name="efficientnet_lite0",
                      kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))


def block_names():
    """Returns the names of the blocks in order: block1a, block2a, block2b, …, block7a."""
    return [f"block{stage}{letter}" for stage, (_, _, blocks, _, _) in enumerate(STAGES, start=1)
            for letter in "abcd"[:blocks]]


def inverted_residual(x, channels, *, expansion, size, stride, name):
    """Expands by a 1x1 convolution, filters each channel, projects; adds the input if it fits."""
    inputs, expanded = x, expansion * x.shape[-1]
    if expansion != 1:
        x = conv_norm(x, expanded, 1, name=f"{name}_expand")
        x = relu6(x, name=f"{name}_expand_activation")
    x = keras.layers.DepthwiseConv2D(size, strides=stride, padding="same", use_bias=False,
                                     depthwise_initializer=conv_initializer(),
                                     name=f"{name}_dwconv")(x)
    x = relu6(normalize(x, name=f"{name}_bn"), name=f"{name}_activation")
    x = conv_norm(x, channels, 1, name=f"{name}_project")
    if stride != 1 or inputs.shape[-1] != channels:
        return x
    return keras.layers.Add(name=f"{name}_add")([x, inputs])


def conv_norm(x, channels, size, *, stride=1, name):
    x = keras.layers.Conv2D(channels, size, strides=stride, padding="same", use_bias=False,
                            kernel_initializer=conv_initializer(), name=f"{name}_conv")(x)
    return normalize(x, name=f"{name}_bn")


def normalize(x, *, name):
    return FusedBatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)


def relu6(x, *, name):
    return keras.layers.ReLU(max_value=6.0, name=name)(x)


def conv_initializer():
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")
