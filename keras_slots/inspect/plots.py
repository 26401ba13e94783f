"""Figures of what is selected: values, and the first layer as images. They need the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_slots.inspect.choices import available_values, named_kernels
from keras_slots.inspect.choices import selected_values as _selected

_BINS = 41


def selected_values(model: keras.Model, label: str = "selected", color: Any = None, figure: Any = None) -> Any:
    """Draws the density of the selected values of each kernel over that of the available ones.

    Args:
        model: Built model with slot layers.
        label: Name of the curve in the legend.
        color: Colour of the curve; None takes the next one.
        figure: Figure of an earlier call, which gets one more curve; None makes a new one.

    Returns:
        The figure, one picture for each kernel.

    Raises:
        ValueError: If the model holds no slot layer, or other kernels than the figure.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense
    >>> from keras_slots.inspect import plots
    >>> model = keras.Sequential([keras.Input((64,)), SlotDense(100, name="hidden"), SlotDense(10)])
    >>> figure = plots.selected_values(model, "before training")
    >>> figure = plots.selected_values(model, "after training", figure=figure)
    >>> figure.axes[0].get_title()
    'hidden: 64 × 100'
    """
    kernels = _kernels_of(model)
    if figure is None:
        figure = _new_figure()
        columns = min(4, len(kernels))
        rows = math.ceil(len(kernels) / columns)
        figure.set_size_inches(4 * columns, 3.2 * rows)
        every = list(figure.subplots(rows, columns, squeeze=False).flat)
        for spare in every[len(kernels) :]:
            spare.remove()
        for ax, (name, kernel) in zip(every, kernels.items(), strict=False):
            values = available_values(kernel)
            edges = np.linspace(-np.abs(values).max(), np.abs(values).max(), _BINS)
            ax.hist(values, edges, density=True, color="0.85", label="available")
            shape = " × ".join(map(str, kernel.initial.kernel_shape))
            ax.set(title=f"{name}: {shape}", xlabel="value", yticks=[])
            ax.locator_params(axis="x", nbins=6)
        every[0].set_ylabel("density")
    drawn = [ax.get_title().rpartition(":")[0] for ax in figure.axes]
    if drawn != list(kernels):
        raise ValueError(
            f"`figure` must show the kernels of `model`, {list(kernels)}. Received: a figure of {drawn}."
        )
    for ax, kernel in zip(figure.axes, kernels.values(), strict=True):
        # The bins of the available values, which the first drawn thing shows.
        first = ax.patches[0].get_x()
        edges = np.linspace(first, -first, _BINS)
        density, _ = np.histogram(_selected(kernel), edges, density=True)
        ax.stairs(density, edges, color=color, lw=1.4, label=label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for legend in list(figure.legends):
        legend.remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="small")
    return figure


def first_layer(models: Mapping[str, keras.Model], image_shape: tuple[int, int], units: int = 7) -> Any:
    """Draws the first kernel of dense networks on images: mean magnitude of each pixel, and single units.

    The units are those with the largest values in the last of the models, the same in every row.

    Args:
        models: Name of a row -> model, at least one, for example one before and one after training.
        image_shape: Height and width of the images.
        units: Number of units to show.

    Returns:
        The figure: a row for each model, the mean over all units on the left.

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
    height, width = image_shape
    kernels = {}
    for label, model in models.items():
        kernel = next(iter(_kernels_of(model).values()))
        if len(kernel.initial.kernel_shape) != 2 or kernel.initial.kernel_shape[0] != height * width:
            raise ValueError(
                f"`image_shape` must have as many pixels as the first kernel of '{label}' has inputs. Received: "
                f"image_shape={image_shape}, a kernel of shape {kernel.initial.kernel_shape}"
            )
        kernels[label] = _selected(kernel)
    *_, last = kernels.values()
    largest = np.argsort(-np.abs(last).sum(axis=0), kind="stable")[:units]
    figure = _new_figure()
    figure.set_size_inches(1.3 * (len(largest) + 1), 1.4 * len(kernels) + 0.3)
    grid = figure.subplots(len(kernels), len(largest) + 1, squeeze=False)
    means = {label: np.abs(kernel).mean(axis=1) for label, kernel in kernels.items()}
    low, high = min(x.min() for x in means.values()), max(x.max() for x in means.values())
    bound = max(np.abs(kernel).max() for kernel in kernels.values())
    for row, (label, kernel) in zip(grid, kernels.items(), strict=True):
        row[0].set_ylabel(label)
        row[0].imshow(means[label].reshape(image_shape), cmap="magma", vmin=low, vmax=high)
        for ax, unit in zip(row[1:], largest, strict=True):
            image = kernel[:, unit].reshape(image_shape)
            ax.imshow(image, cmap="RdBu", vmin=-bound, vmax=bound)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
    titles = ["mean |w|", *(f"unit {unit}" for unit in largest)]
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize="small")
    return figure


def _kernels_of(model: keras.Model) -> dict[str, Any]:
    kernels = {name: kernel for name, (_, kernel) in named_kernels(model).items()}
    if not kernels:
        raise ValueError(
            f"`model` must hold slot layers. Received: model '{model.name}' with the layers "
            f"{[layer.name for layer in model.layers]}"
        )
    return kernels


def _new_figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`keras_slots.inspect.plots` needs pip install "keras-slots[plots]"') from error
    return Figure(figsize=(7, 4.5), layout="constrained")
