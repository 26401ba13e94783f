"""Figures of what is selected: values, changes, accuracy, and the first layer as images.

Needs the extra `plots`. Every function returns the `matplotlib.figure.Figure` that it drew on; those that draw one
picture take `ax`, to draw into a figure of yours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def changes(history: Any, ax: Any = None) -> Any:
    """Draws the share of connections whose selection changed, epoch by epoch, as `SelectionMonitor` counted it.

    Args:
        history: What `fit` returned, or the dictionary of it: keys to one number an epoch.
        ax: Axes to draw on; None makes a new figure.

    Returns:
        The figure: one curve for each kernel, and the network in black.

    Raises:
        ValueError: If the history holds no `"slots/changed"`.

    Example:

    >>> from keras_slots.inspect import plots
    >>> history = {"slots/changed": [0.3, 0.1], "slots/hidden/changed": [0.4, 0.1], "loss": [2.0, 1.0]}
    >>> [line.get_label() for line in plots.changes(history).axes[0].lines]
    ['hidden', 'network']
    """
    curves: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    if "slots/changed" not in curves:
        raise ValueError(
            "`history` must be that of a `fit` with `keras_slots.SelectionMonitor()` among its callbacks. "
            f"Received: a history of {sorted(curves)}"
        )
    ax = _new_axes() if ax is None else ax
    for key, shares in curves.items():
        name = key.removeprefix("slots/").removesuffix("/changed")
        if key == f"slots/{name}/changed":
            ax.plot(range(1, len(shares) + 1), shares, label=name)
    shares = curves["slots/changed"]
    ax.plot(range(1, len(shares) + 1), shares, color="0.1", lw=2, label="network")
    ax.set(xlabel="epoch", ylabel="share of selections that changed", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize="small")
    return ax.figure


def accuracy_against_k(
    curves: Mapping[str, Mapping[int, Iterable[float]]], ax: Any = None, learned: Any = None
) -> Any:
    """Draws accuracy against K: the mean of some runs, with a bar from the lowest to the highest.

    Args:
        curves: Name of a curve -> K -> accuracies of its runs, in percent. A line joins K and 2 K alone.
        ax: Axes to draw on; None makes a new figure.
        learned: Accuracies of the learned network, in percent, for a horizontal line; None draws none.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, or one without runs.

    Example:

    >>> from keras_slots.inspect import plots
    >>> runs = {"greedy": {2: [96.9, 97.1], 8: [98.2, 98.3]}}
    >>> plots.accuracy_against_k(runs, learned=[98.0]).axes[0].get_xlabel()
    'K, values per connection'
    """
    if not curves or not all(curve and all(map(list, curve.values())) for curve in curves.values()):
        raise ValueError(
            "`curves` must hold curves of at least one K each, with at least one accuracy each, as in "
            f"{{'greedy': {{8: [98.2]}}}}. Received: curves={curves!r}"
        )
    ax = _new_axes() if ax is None else ax
    for label, curve in curves.items():
        # Where a K is missing, the line breaks.
        doubled = (2**i for i in range(int(math.log2(max(curve)))))
        ks = sorted({*curve, *(k for k in doubled if k > min(curve))})
        cells = [list(curve.get(k, [math.nan])) for k in ks]
        means = [statistics.fmean(cell) for cell in cells]
        bars = (
            [mean - min(cell) for mean, cell in zip(means, cells, strict=True)],
            [max(cell) - mean for mean, cell in zip(means, cells, strict=True)],
        )
        ax.errorbar(ks, means, bars, label=label, marker="o", capsize=3)
    if learned is not None:
        ax.axhline(statistics.fmean(learned), color="0.2", lw=1.2, label="learned")
    ticks = sorted({k for curve in curves.values() for k in curve})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.set(xlabel="K, values per connection", ylabel="test accuracy, %")
    ax.legend(fontsize="small", ncols=2, loc="lower center")
    return ax.figure


def accuracy_against_size(curves: Mapping[str, Iterable[tuple[float, float]]], ax: Any = None) -> Any:
    """Draws accuracy against the size of a file, on a logarithmic axis.

    Args:
        curves: Name of a curve -> pairs of bytes and accuracy in percent; one pair is drawn as a point.
        ax: Axes to draw on; None makes a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no pair, or a size is not positive.

    Example:

    >>> from keras_slots.inspect import plots
    >>> runs = {"slots, K = 8": [(28_700, 98.0), (83_000, 98.8)], "float32": [(1_065_000, 98.9)]}
    >>> [len(line.get_xdata()) for line in plots.accuracy_against_size(runs).axes[0].lines]
    [2, 1]
    """
    points = {label: sorted(curve) for label, curve in curves.items()}
    if not points or not all(curve and curve[0][0] > 0 for curve in points.values()):
        raise ValueError(
            "`curves` must hold pairs of bytes, more than 0, and accuracy, at least one a curve, as in "
            f"{{'K = 8': [(83_000, 98.8)]}}. Received: curves={curves!r}"
        )
    ax = _new_axes() if ax is None else ax
    from matplotlib.ticker import EngFormatter, LogLocator

    for label, curve in points.items():
        ax.plot(*zip(*curve, strict=True), marker="o", label=label)
    ax.set(xscale="log", xlabel="size of the file", ylabel="test accuracy, %")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(unit="B"))
    ax.xaxis.set_minor_formatter("")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="lower right")
    return ax.figure


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


def _new_axes() -> Any:
    return _new_figure().subplots()
