"""Makes keras_slots/slots_file/dictionary.txt from configurations of the layers that Keras has.

    python tests/make_dictionary.py > dictionary.txt && cmp dictionary.txt keras_slots/slots_file/dictionary.txt

Architectures in `.slots` files are compressed with that text as preset dictionary. It is a part of the format: it
must not change once a version of the format has been released. It is what Keras 3.15.1 writes; what a later one
writes otherwise only takes some bytes more. Common layers come last, where they are cheapest to refer to.
"""

import json

import keras
from keras import layers

IMAGE = (28, 28, 1)


def models():
    """Models that have the common layers with their usual arguments: a Keras model, or a shape and its layers."""
    yield from (
        [(16,), layers.Embedding(1000, 16), layers.LSTM(16), layers.Reshape((4, 4)), layers.GRU(16)],
        [(16, 8), layers.Conv1D(16, 3), layers.MaxPooling1D(), layers.GlobalAveragePooling1D()],
        [(32, 32, 3), layers.Rescaling(1 / 255), layers.ZeroPadding2D(), layers.SeparableConv2D(16, 3)],
        [(32, 32, 3), layers.Conv2DTranspose(16, 3), layers.UpSampling2D(), layers.LayerNormalization()],
        [(32, 32, 3), layers.LeakyReLU(), layers.AveragePooling2D(2), layers.GlobalMaxPooling2D()],
    )
    yield residual()
    yield [
        IMAGE,
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.Activation("relu"),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(10, 1, padding="same", activation="relu"),
        layers.Softmax(),
        layers.EinsumDense("...c,c->...c", 10, bias_axes="c"),  # of `save_slots(fold_batch_norm=True)`
        layers.Dropout(0.5),
    ]
    yield [
        IMAGE,
        layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv2d"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 3, use_bias=False, name="slot_conv2d_1"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(100, activation="relu", name="slot_dense"),
        layers.Dense(10, name="slot_dense_1"),
    ]


def residual():
    """A Functional model with a branch."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Concatenate()([layers.Add()([x, x]), inputs])
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(layers.MaxPooling2D()(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def lines():
    """One compact line for each model; a line break in a file is no part of the dictionary."""
    for model in models():
        keras.backend.clear_session()
        if isinstance(model, list):
            shape, *own = model
            model = keras.Sequential([keras.Input(shape), *own], name="sequential")
        yield json.dumps(keras.saving.serialize_keras_object(model), separators=(",", ":")) + ","


if __name__ == "__main__":
    print("\n".join(lines()))
