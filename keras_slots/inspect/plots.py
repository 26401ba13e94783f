"""Figures of what is selected: values, and the first layer as images. They need the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_slots.inspect import choices
from keras_slots.kernels.base import SlotKernel

_BINS = 41
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # safe for the colour-blind


def selected_values(model: keras.Model, label: str = "selected", color: Any = None, figure: Any = None) -> Any:
    """Draws the density of the selected values of each kernel over that of the available ones.

    Args:
        model: Built model with slot layers.
        label: Name of the curve in the legend.
        color: Colour of the curve; None: the next of six that colour-blind people tell apart.
        figure: Figure of an earlier call, to which to add a curve; None makes a new one.

    Returns:
        A `matplotlib.figure.Figure` with one plot per kernel.

    Raises:
        ValueError: If the model has no slot layer, or the figure shows other kernels.

    Example:

    >>> import keras
    >>> from sklearn.datasets import load_digits
    >>> from keras_slots import SlotDense
    >>> from keras_slots.inspect import plots
    >>> x, y = load_digits(return_X_y=True)
    >>> model = keras.Sequential([keras.Input((64,)), SlotDense(100, name="hidden"), SlotDense(10)])
    >>> figure = plots.selected_values(model, "before training")
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile(keras.optimizers.SGD(0.3, momentum=0.9), loss)
    >>> history = model.fit(x / 16, y, verbose=0)
    >>> figure = plots.selected_values(model, "after training", figure=figure)
    >>> figure.axes[0].get_title()
    'hidden: 64 × 100'
    """
    kernels = _kernels_of(model)
    figure = figure or _available_values(kernels)
    drawn = [ax.get_title().rpartition(":")[0] for ax in figure.axes]
    if drawn != list(kernels):
        raise ValueError(
            f"`figure` must be a figure of the kernels of `model`, {list(kernels)}. Received: a figure of {drawn}."
        )
    for ax, kernel in zip(figure.axes, kernels.values(), strict=True):
        first = ax.patches[0].get_x()  # the bins of the available values, which were drawn first
        earlier = len(ax.patches) - (_BINS - 1)
        edges = np.linspace(first, -first, _BINS)
        density, _ = np.histogram(choices.selected_values(kernel), edges, density=True)
        drawn_in = _COLORS[earlier % len(_COLORS)] if color is None else color
        ax.stairs(density, edges, color=drawn_in, lw=1.4, label=label)
    for legend in list(figure.legends):
        legend.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="small")
    return figure


def _available_values(kernels: dict[str, SlotKernel]) -> Any:
    """A figure with a histogram of the available values of each kernel."""
    columns = min(4, len(kernels))
    rows = math.ceil(len(kernels) / columns)
    figure = _new_figure(4 * columns, 3.2 * rows)
    pictures = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in pictures[len(kernels) :]:
        spare.remove()
    for ax, (name, kernel) in zip(pictures, kernels.items(), strict=False):
        values = choices.available_values(kernel)
        edges = np.linspace(-np.abs(values).max(), np.abs(values).max(), _BINS)
        ax.hist(values, edges, density=True, color="0.85", label="available")
        shape = " × ".join(map(str, kernel.initial.kernel_shape))
        ax.set(title=f"{name}: {shape}", xlabel="value", yticks=[])
        ax.locator_params(axis="x", nbins=6)
    pictures[0].set_ylabel("density")
    return figure


def first_layer(models: Mapping[str, keras.Model], image_shape: tuple[int, int], units: int = 7) -> Any:
    """Draws the first kernel of dense networks on images: the mean magnitude at each pixel, and single units.

    The units are those with the largest values in the last model; they are the same in every row.

    Args:
        models: Name of a row -> model, at least one, for example one before and one after training.
        image_shape: Height and width of the images.
        units: Number of units to show.

    Returns:
        A `matplotlib.figure.Figure` with one row per model, and the mean over all units on the left.

    Raises:
        ValueError: If a first kernel does not have `height * width` inputs.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense
    >>> from keras_slots.inspect import plots
    >>> model = keras.Sequential([keras.Input((64,)), SlotDense(10)])
    >>> len(plots.first_layer({"random": model}, (8, 8), units=4).axes)
    5
    """
    kernels = {label: next(iter(_kernels_of(model).values())) for label, model in models.items()}
    for label, kernel in kernels.items():
        shape = kernel.initial.kernel_shape
        if len(shape) != 2 or shape[0] != math.prod(image_shape):
            raise ValueError(
                f"`image_shape` must have as many pixels as the first kernel of '{label}' has inputs. Received: "
                f"image_shape={image_shape}, a kernel of shape {shape}"
            )
    values = {label: choices.selected_values(kernel) for label, kernel in kernels.items()}
    *_, last = values.values()
    largest = np.argsort(-np.abs(last).sum(axis=0), kind="stable")[:units]
    figure = _new_figure(1.3 * (len(largest) + 1), 1.4 * len(values) + 0.3)
    grid = figure.subplots(len(values), len(largest) + 1, squeeze=False)
    means = [np.abs(array).mean(axis=1) for array in values.values()]
    low, high = np.min(means), np.max(means)
    bound = max(np.abs(array).max() for array in values.values())
    for row, mean, (label, array) in zip(grid, means, values.items(), strict=True):
        row[0].set_ylabel(label)
        row[0].imshow(mean.reshape(image_shape), cmap="magma", vmin=low, vmax=high)
        for ax, unit in zip(row[1:], largest, strict=True):
            ax.imshow(array[:, unit].reshape(image_shape), cmap="RdBu", vmin=-bound, vmax=bound)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(grid[0], ["mean |w|", *(f"unit {unit}" for unit in largest)], strict=True):
        ax.set_title(title, fontsize="small")
    return figure


def _kernels_of(model: keras.Model) -> dict[str, SlotKernel]:
    kernels = {name: kernel for name, (_, kernel) in choices.named_kernels(model).items()}
    if not kernels:
        raise ValueError(
            f"`model` must have slot layers. Received: model '{model.name}' with the layers "
            f"{[layer.name for layer in model.layers]}"
        )
    return kernels


def _new_figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`keras_slots.inspect.plots` needs pip install "keras-slots[plots]"') from error
    return Figure(figsize=(width, height), layout="constrained")
