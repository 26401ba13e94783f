"""The selected network as one header in C: packed choices, and code that makes weights while they are used."""

from __future__ import annotations

from typing import Any

import keras

from keras_slots._checks import check_calibration_data
from keras_slots.c_export.header import header
from keras_slots.c_export.integers import calibrated, check_sums
from keras_slots.c_export.plan import Planner


def c_header(model: keras.Model, name: str, calibration_data: Any = None) -> str:
    """The text of the header. With calibration data its activations are bytes, otherwise floats.

    Args:
        model: Slot model.
        name: Begins all names in the header.
        calibration_data: Array of inputs, or None.

    Raises:
        ValueError: If C code cannot express the model, or the data are not inputs of it.
    """
    planner = Planner(model)
    stages = planner.run()
    if calibration_data is None:
        return header(name, stages, planner.input_shape, None)
    data = check_calibration_data(calibration_data, planner.input_shape)
    _check_banks(stages)
    check_sums(stages)
    integers = calibrated(stages, data)
    return header(name, stages, planner.input_shape, integers)


def _check_banks(stages: list) -> None:
    """Raises an error if values are not integers of eight bits."""
    names = [stage.name for stage in stages if stage.bank is not None and stage.bank.unit is None]
    if names:
        raise ValueError(
            f"`calibration_data` asks for integers, and the values of the layers {names} are finer than integers "
            "of eight bits. Train with `bank_initializer=StratifiedUniform(scale, bits=8)` or `sharing='layer'`, "
            "or leave `calibration_data` out for code that computes with floats."
        )
