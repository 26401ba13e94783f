"""What is trained in the place of a kernel and how it selects: one module for each score mode."""

from keras_slots.kernels.base import SlotKernel

# In the order in which errors name them.
from keras_slots.kernels.per_value import PerValueKernel  # isort: skip
from keras_slots.kernels.per_connection import PerConnectionKernel  # isort: skip
from keras_slots.kernels.nearest import NearestKernel  # isort: skip

__all__ = ["NearestKernel", "PerConnectionKernel", "PerValueKernel", "SlotKernel"]
