"""The slot layers: Keras layers whose kernels are selected from banks of fixed random values."""

# Importing them registers the slot layers.
from keras_slots.layers import attention, conv, dense, depthwise, embedding, recurrent

__all__ = ["attention", "conv", "dense", "depthwise", "embedding", "recurrent"]
