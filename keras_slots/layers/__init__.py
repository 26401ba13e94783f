"""The slot layers: Keras layers whose kernels are selected from banks of fixed random values."""

from keras_slots.layers.attention import SlotGroupQueryAttention, SlotMultiHeadAttention
from keras_slots.layers.convolution import SlotConv1D, SlotConv2D, SlotConv3D
from keras_slots.layers.dense import SlotDense, SlotEinsumDense
from keras_slots.layers.depthwise import SlotDepthwiseConv1D, SlotDepthwiseConv2D
from keras_slots.layers.separable import SlotSeparableConv1D, SlotSeparableConv2D
from keras_slots.layers.transpose import (
    SlotConv1DTranspose,
    SlotConv2DTranspose,
    SlotConv3DTranspose,
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
