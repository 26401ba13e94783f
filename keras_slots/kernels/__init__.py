"""What is trained in the place of a kernel and how it selects: one module for each score mode."""

from keras_slots.kernels.base import SlotKernel

from keras_slots.kernels.per_value import PerValueKernel  # isort: skip (the default comes first)
from keras_slots.kernels.per_connection import PerConnectionKernel

from keras_slots.kernels.nearest import NearestKernel  # isort: skip

__all__ = ["NearestKernel", "PerConnectionKernel", "PerValueKernel", "SlotKernel"]
