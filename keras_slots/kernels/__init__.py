"""The kernels of slot layers, which are selected from trained numbers: one module per score mode."""

from keras_slots.kernels.base import SlotKernel

# The order of imports is the order of the names in errors.
from keras_slots.kernels.per_value import PerValueKernel  # isort: skip
from keras_slots.kernels.per_connection import PerConnectionKernel  # isort: skip
from keras_slots.kernels.nearest import NearestKernel  # isort: skip

__all__ = ["NearestKernel", "PerConnectionKernel", "PerValueKernel", "SlotKernel"]
