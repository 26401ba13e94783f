"""The distributions, with what is known of them in closed form, shared by the tests."""

import json
import math
import re

import keras

from keras_slots.values.distributions import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    SignedConstant,
    UniformScores,
    VarianceScaling,
)

FANS = (300, 100)
GLOROT, HE = math.sqrt(2 / 400), math.sqrt(2 / 300)
# standard deviation and bound of each, in closed form
PRESETS = {
    "glorot_uniform": (GlorotUniform, GLOROT, math.sqrt(6 / 400)),
    "glorot_normal": (GlorotNormal, GLOROT, 2 * GLOROT / 0.87962566103423978),
    "he_uniform": (HeUniform, HE, math.sqrt(6 / 300)),
    "he_normal": (HeNormal, HE, 2 * HE / 0.87962566103423978),
    "signed_constant": (SignedConstant, HE, HE),
}
CLASSES = [entry[0] for entry in PRESETS.values()]
ALL = [
    *(cls(0.5) for cls in CLASSES),
    HeNormal(seed=2**64 - 1),
    VarianceScaling(3.0, "fan_out", "uniform", scale=0.25, seed=4),
    VarianceScaling(),
    UniformScores(0.1),
]


def in_json(config):
    return json.loads(json.dumps(config))


def one_round_trip(obj):
    return keras.saving.deserialize_keras_object(in_json(keras.saving.serialize_keras_object(obj)))


def named(value):
    """What a test's name says of a value: its repr, without addresses."""
    return re.sub(r"<[\w.]+\.(\w+) object at 0x\w+>", r"\1", repr(value))
