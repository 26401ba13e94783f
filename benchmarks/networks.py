"""The networks that the benchmarks measure, with plain layers and no biases."""

import keras

_CONVOLUTIONS = {
    "lenet300100": (),
    "conv6": (64, 64, "pool", 128, 128, "pool", 256, 256, "pool"),
    "vgg19": (
        *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool"),
        *(512, 512, 512, 512, "pool", 512, 512, 512, 512, "pool"),
    ),
}
_UNITS = {"lenet300100": (300, 100), "conv6": (256, 256), "vgg19": ()}
NAMES = tuple(_CONVOLUTIONS)


def plain_network(name):
    """A network of the paper as a Sequential model; batch normalization in VGG-19, as the paper has it."""
    layers = [keras.Input((784,) if name == "lenet300100" else (32, 32, 3))]
    for filters in _CONVOLUTIONS[name]:
        if filters == "pool":
            layers.append(keras.layers.MaxPooling2D())
            continue
        layers.append(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
        if name == "vgg19":
            layers.append(keras.layers.BatchNormalization(center=False, scale=False))
        layers.append(keras.layers.ReLU())
    if name != "lenet300100":
        layers.append(keras.layers.Flatten())
    hidden = {"activation": "relu", "use_bias": False}
    layers += [keras.layers.Dense(units, **hidden) for units in _UNITS[name]]
    return keras.Sequential([*layers, keras.layers.Dense(10, use_bias=False)])


def compiled(model, jit_compile="auto"):
    """The model with the paper's optimizer: SGD with momentum."""
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model
