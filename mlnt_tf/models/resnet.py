"""Networks for small images: the paper's pre-activation ResNet, and a CNN of three convolutions."""

import keras

from mlnt_tf.models.layers import FusedBatchNormalization


def preact_resnet(depth, *, width, input_shape, num_classes):
    """Pre-activation ResNet, as in Tanaka et al. (2018), whose network the paper uses.

    There are three stages of (depth - 2) / 6 blocks with widths w, 2w, 4w and strides 1, 2, 2. The
    first block of every stage has a 1x1 projection of its activated input. The other blocks add the
    input itself. Convolutions are He-normal and have no bias. Depth 32 at width 32 has 1,861,162
    trainable parameters for 10 classes and images of 32 x 32 x 3.

    Args:
      depth: int of the form 6 n + 2, for example 8, 14, 20 or 32.
      width: int, the number of channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: int, the number of logits.

    Returns:
      A functional model that maps float images [batch, height, width, channels] to float32 logits
      [batch, classes].
    """
    images = keras.Input(input_shape)
    x = conv3x3(images, width, stride=1)
    for stage in range(3):
        channels = width * 2**stage
        for block in range((depth - 2) // 6):
            is_first = block == 0
            stride = 2 if is_first and stage > 0 else 1
            x = preact_block(x, channels, stride=stride, project=is_first)
        x = keras.layers.Identity(name=f"stage{stage + 1}")(x)
    return classifier(images, norm_relu(x), num_classes, name=f"preact_resnet{depth}")


def preact_block(x, channels, *, stride, project):
    """Adds two 3x3 convolutions to a shortcut, which is projected if `project`."""
    activated = norm_relu(x)
    shortcut = conv(activated, channels, 1, stride=stride) if project else x
    residual = conv3x3(activated, channels, stride=stride)
    residual = conv3x3(norm_relu(residual), channels, stride=1)
    return keras.layers.Add()([shortcut, residual])


def cnn(*, width, input_shape, num_classes):
    """Three 3x3 convolutions with widths w, 2w, 2w and strides 1, 2, 1, for images of about 8 x 8.

    Args and returns: as for `preact_resnet`.
    """
    images = keras.Input(input_shape)
    x = images
    stages = ((width, 1), (2 * width, 2), (2 * width, 1))
    for stage, (channels, stride) in enumerate(stages, start=1):
        x = norm_relu(conv3x3(x, channels, stride=stride))
        x = keras.layers.Identity(name=f"stage{stage}")(x)
    return classifier(images, x, num_classes, name="cnn")


def classifier(images, x, num_classes, *, name, kernel_initializer="glorot_uniform"):
    """Adds global average pooling (the penultimate features) and a layer of logits.

    Both are float32 at every precision.

    Args:
      images: the input of the network.
      x: [batch, height, width, channels].
      num_classes: int, the number of logits.
      name: str, the name of the network.
      kernel_initializer: initializer of the layer of logits.

    Returns:
      A functional model.
    """
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=kernel_initializer, dtype="float32",
                                name="logits")(features)
    return keras.Model(images, logits, name=name)


def norm_relu(x):
    """Batch normalization, then ReLU."""
    return keras.layers.ReLU()(FusedBatchNormalization(momentum=0.9, epsilon=1e-5)(x))


def conv3x3(x, channels, *, stride):
    """3x3 convolution that pads every edge by one pixel, as PyTorch does.

    At stride 2, "same" would pad only the bottom and right edges.
    """
    if stride == 1:
        return conv(x, channels, 3, padding="same")
    return conv(keras.layers.ZeroPadding2D(1)(x), channels, 3, stride=stride)


def conv(x, channels, size, *, stride=1, padding="valid"):
    """He-normal convolution without bias."""
    return keras.layers.Conv2D(channels, size, strides=stride, padding=padding, use_bias=False,
                               kernel_initializer="he_normal")(x)
