"""Slot machine networks for Keras: training chooses among fixed random values, and never changes one."""

from keras_slots.distributions import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    SignedConstant,
    UniformScores,
)
from keras_slots.export import export_selected
from keras_slots.layers import (
    SlotConv1D,
    SlotConv2D,
    SlotConv2DTranspose,
    SlotConv3D,
    SlotDense,
    SlotDepthwiseConv2D,
    SlotEinsumDense,
)
from keras_slots.sharing import ValueBank
from keras_slots.transforms import materialize, slotify
from keras_slots.version import __version__

__all__ = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "SignedConstant",
    "SlotConv1D",
    "SlotConv2D",
    "SlotConv2DTranspose",
    "SlotConv3D",
    "SlotDense",
    "SlotDepthwiseConv2D",
    "SlotEinsumDense",
    "UniformScores",
    "ValueBank",
    "__version__",
    "export_selected",
    "materialize",
    "slotify",
]
