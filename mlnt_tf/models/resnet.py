"""Networks for small images: the paper's pre-activation ResNet, and a plain one of three convolutions."""

import keras

from mlnt_tf.models.layers import FusedBatchNormalization


def preact_resnet(depth, *, width, input_shape, num_classes):
    """Pre-activation ResNet as the paper takes it from Tanaka et al. (2018).

    Three stages of (depth - 2) / 6 blocks at widths w, 2w, 4w and strides 1, 2, 2. The first block of every stage
    has a 1x1 projection of its activated input; the others add the input itself. He-normal convolutions without
    bias. Depth 32 at width 32 has 1,861,162 trainable parameters for 10 classes of 32 x 32 x 3 images.

    Args:
      depth: 8, 14, 20, 32, ...: 6 n + 2.
      width: channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: of the logits.

    Returns:
      a functional model, float images [batch, height, width, channels] to float32 logits [batch, classes].
    """
    images = keras.Input(input_shape)
    x = conv3x3(images, width, stride=1)
    for stage in range(3):
        channels = width * 2**stage
        for block in range((depth - 2) // 6):
            x = preact_block(x, channels, stride=2 if stage and not block else 1, project=not block)
        x = keras.layers.Identity(name=f"stage{stage + 1}")(x)
    return classifier(images, norm_relu(x), num_classes, name=f"preact_resnet{depth}")


def preact_block(x, channels, *, stride, project):
    activated = norm_relu(x)
    shortcut = conv(activated, channels, 1, stride=stride) if project else x
    residual = conv3x3(activated, channels, stride=stride)
    residual = conv3x3(norm_relu(residual), channels, stride=1)
    return keras.layers.Add()([shortcut, residual])


def cnn(*, width, input_shape, num_classes):
    """Three 3x3 convolutions at widths w, 2w, 2w and strides 1, 2, 1, for images of about 8 x 8.

    Args, returns: as `preact_resnet`.
    """
    images = x = keras.Input(input_shape)
    for stage, (channels, stride) in enumerate(((width, 1), (2 * width, 2), (2 * width, 1))):
        x = norm_relu(conv3x3(x, channels, stride=stride))
        x = keras.layers.Identity(name=f"stage{stage + 1}")(x)
    return classifier(images, x, num_classes, name="cnn")


def classifier(images, x, num_classes, *, name):
    """Global average pooling, the penultimate features, then logits; both float32 whatever the precision."""
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(features)
    return keras.Model(images, logits, name=name)


def norm_relu(x):
    return keras.layers.ReLU()(FusedBatchNormalization(momentum=0.9, epsilon=1e-5)(x))


def conv3x3(x, channels, *, stride):
    if stride == 1:
        return conv(x, channels, 3, padding="same")
    # "same" would pad the far edges alone at stride 2; the paper's code pads every edge by one.
    return conv(keras.layers.ZeroPadding2D(1)(x), channels, 3, stride=stride)


def conv(x, channels, size, *, stride=1, padding="valid"):
    return keras.layers.Conv2D(channels, size, strides=stride, padding=padding, use_bias=False,
                               kernel_initializer="he_normal")(x)
