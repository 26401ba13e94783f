"""What is trained in the place of a kernel and how it selects: one module for each score mode."""

from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.nearest import NearestKernel
from keras_slots.kernels.per_connection import PerConnectionKernel
from keras_slots.kernels.per_value import PerValueKernel

#: The kernel of each score mode. One line here is all that a new name needs.
SCORE_MODES: dict[str, type[SlotKernel]] = {
    "per_value": PerValueKernel,
    "per_connection": PerConnectionKernel,
    "nearest": NearestKernel,
}
