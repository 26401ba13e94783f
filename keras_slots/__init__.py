"""Slot machine networks for Keras: training selects among fixed random values and never changes them."""

from keras_slots import _command  # noqa: F401 - before Keras is imported
from keras_slots import zoo as zoo
from keras_slots._registry import register
from keras_slots.export import export_selected
from keras_slots.inspect.monitor import SelectionMonitor
from keras_slots.inspect.summary import summary, summary_dict
from keras_slots.layers.attention import SlotGroupQueryAttention, SlotMultiHeadAttention
from keras_slots.layers.base import SlotLayer
from keras_slots.layers.conv import (
    SlotConv1D,
    SlotConv1DTranspose,
    SlotConv2D,
    SlotConv2DTranspose,
    SlotConv3D,
    SlotConv3DTranspose,
)
from keras_slots.layers.dense import SlotDense, SlotEinsumDense
from keras_slots.layers.depthwise import (
    SlotDepthwiseConv1D,
    SlotDepthwiseConv2D,
    SlotSeparableConv1D,
    SlotSeparableConv2D,
)
from keras_slots.layers.embedding import SlotEmbedding, SlotReversibleEmbedding
from keras_slots.layers.recurrent import (
    SlotGRU,
    SlotGRUCell,
    SlotLSTM,
    SlotLSTMCell,
    SlotSimpleRNN,
    SlotSimpleRNNCell,
)
from keras_slots.selection import Greedy, Probabilistic, SelectionRule
from keras_slots.slots_file import load_slots, save_slots
from keras_slots.transforms import materialize, slotify
from keras_slots.values.distributions import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    SignedConstant,
    UniformScores,
)
from keras_slots.values.nearest_scores import NearestScores
from keras_slots.values.stratified import StratifiedUniform
from keras_slots.values.value_bank import ValueBank
from keras_slots.version import __version__

__all__ = [
    "GlorotNormal",
    "GlorotUniform",
    "Greedy",
    "HeNormal",
    "HeUniform",
    "NearestScores",
    "Probabilistic",
    "SelectionMonitor",
    "SelectionRule",
    "SignedConstant",
    "SlotConv1D",
    "SlotConv1DTranspose",
    "SlotConv2D",
    "SlotConv2DTranspose",
    "SlotConv3D",
    "SlotConv3DTranspose",
    "SlotDense",
    "SlotDepthwiseConv1D",
    "SlotDepthwiseConv2D",
    "SlotEinsumDense",
    "SlotEmbedding",
    "SlotGRU",
    "SlotGRUCell",
    "SlotGroupQueryAttention",
    "SlotLSTM",
    "SlotLSTMCell",
    "SlotLayer",
    "SlotMultiHeadAttention",
    "SlotReversibleEmbedding",
    "SlotSeparableConv1D",
    "SlotSeparableConv2D",
    "SlotSimpleRNN",
    "SlotSimpleRNNCell",
    "StratifiedUniform",
    "UniformScores",
    "ValueBank",
    "__version__",
    "export_selected",
    "load_slots",
    "materialize",
    "register",
    "save_slots",
    "slotify",
    "summary",
    "summary_dict",
]
