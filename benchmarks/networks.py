"""The networks that the benchmarks measure, plain and as slot networks, without biases; and the common flags."""

import argparse
import math
from pathlib import Path

import keras

from keras_slots import slotify

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

#: The arguments of `slotify` for each variant; None is the plain network. A new variant is one line.
VARIANTS = {
    "plain": None,
    "per_connection": {"score_mode": "per_connection"},
    "per_value": {"score_mode": "per_value"},
    "nearest": {"score_mode": "nearest", "bank_initializer": "stratified_uniform"},
}


def plain_network(name):
    """A network of the paper as a Sequential model; VGG-19 has batch normalization, as in the paper."""
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


def labels(variants, values):
    """Maps names in tables to (variant, K): each variant at every K, the plain network once."""
    names = {}
    for k in values:
        for variant in variants:
            plain = VARIANTS[variant] is None
            names[variant if plain else f"{variant} K={k}"] = variant, 0 if plain else k
    return names


def make(name, variant, num_values):
    """A variant of a network of the paper, not compiled."""
    plain, arguments = plain_network(name), VARIANTS[variant]
    return plain if arguments is None else slotify(plain, num_values, seed=1, **arguments)


def compiled(model, jit_compile="auto"):
    """Compiles the model with the paper's optimizer, SGD with momentum, and returns it."""
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def count(variables):
    """Total number of entries of all variables."""
    return sum(math.prod(variable.shape) for variable in variables)


def listed(*choices):
    """Makes a parser for comma-separated names out of `choices`, or positive integers if there are no choices."""

    def parse(text):
        parts = text.split(",")
        wrong = [p for p in parts if not (p in choices if choices else p.isdecimal() and int(p))]
        if wrong:
            wanted = f"names out of {', '.join(choices)}" if choices else "positive integers"
            raise argparse.ArgumentTypeError(f"expected {wanted}. Received: {', '.join(wrong)}")
        return parts if choices else [int(part) for part in parts]

    return parse


def parser(description, **defaults):
    """Parser with the flags of all benchmarks; keywords are defaults of --networks, --variants, --num-values."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = {"networks": NAMES, "variants": tuple(VARIANTS), "num_values": ()}
    for name, default in defaults.items():
        text = f"out of {', '.join(choices[name])}" if choices[name] else "values of K"
        kind = listed(*choices[name])
        flag = "--" + name.replace("_", "-")
        result.add_argument(flag, type=kind, default=kind(default), help=f"{text} (default: {default})")
    result.add_argument("--machine", help="description of the machine in FILE")
    result.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return result
