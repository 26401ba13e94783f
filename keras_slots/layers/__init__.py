"""The slot layers: Keras layers whose kernels are selected from banks of fixed random values."""

from keras_slots.layers.attention import SlotGroupQueryAttention, SlotMultiHeadAttention
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

__all__ = [
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
    "SlotGroupQueryAttention",
    "SlotMultiHeadAttention",
    "SlotSeparableConv1D",
    "SlotSeparableConv2D",
]
