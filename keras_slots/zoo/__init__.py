"""Small trained networks that come with the package: a `.slots` file each, and a card that says how it was made.

Example:

>>> from keras_slots import zoo
>>> zoo.load("digits_dense").input_shape
(None, 8, 8, 1)
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import keras

from keras_slots._checks import check_choice
from keras_slots.slots_file import load_slots

_FOLDER = resources.files(__package__)


def names() -> list[str]:
    """Returns the names of the networks, sorted.

    Example:

    >>> from keras_slots import zoo
    >>> "digits_dense" in zoo.names()
    True
    """
    files = (entry.name for entry in _FOLDER.iterdir())
    return sorted(name.removesuffix(".slots") for name in files if name.endswith(".slots"))


def card(name: str) -> dict[str, Any]:
    """Returns what is known of a network: its data, accuracy, size, and the command that makes it again.

    Args:
        name: One of `names()`.

    Returns:
        The figures by name: `data`, `accuracy` (percent of the test images that the file classifies correctly),
        `bytes` of the file, `connections`, `K`, `bits` of the file per connection, `seed`, `command`, `machine`
        and `versions`.

    Raises:
        ValueError: If there is no such network.

    Example:

    >>> from keras_slots import zoo
    >>> card = zoo.card("digits_dense")
    >>> card["connections"], card["K"]
    (2368, 8)
    """
    return json.loads(_file(name, ".json").read_bytes())


def load(name: str) -> keras.Model:
    """Returns a network as `load_slots` reads it: a plain Keras model of the selected values.

    Networks for digits and MNIST take images of shape `(n, size, size, 1)` whose pixels go from 0 to 1, those for
    CIFAR-10 images of shape `(n, 32, 32, 3)`, with pixels `bytes / 64 - 2` (`cifar10_convnet`) or
    `(bytes / 255 - mean) / deviation` (`cifar10_resnet8`), where mean and deviation of the three channels are
    (0.4914, 0.4822, 0.4465) and (0.247, 0.243, 0.261). They return ten logits for each.

    Args:
        name: One of `names()`.

    Raises:
        ValueError: If there is no such network.

    Example:

    >>> from keras_slots import zoo
    >>> zoo.load("digits_dense").count_params()
    2368
    """
    with resources.as_file(_file(name, ".slots")) as path:
        return load_slots(path)


def _file(name: str, suffix: str) -> Any:
    return _FOLDER.joinpath(check_choice(name, "name", names()) + suffix)
