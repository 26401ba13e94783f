"""A callback that reports, epoch by epoch, what a slot machine selects."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_slots.inspect import choices
from keras_slots.kernels.base import SlotKernel


class SelectionMonitor(keras.callbacks.Callback):
    """Adds numbers about what the slot layers of a model have selected to the logs of every epoch.

    There are four numbers for each kernel and for the network, with n its connections and d the distance of a
    choice from its start:

    - `changed`: share of the connections that select another value than one epoch before.
    - `magnitude`: mean |selected value| / mean |available value|.
    - `reach`: share of the n K values that greedy selection can ever take.
    - `bits`: bits per connection that the choices need, `-sum_d p_d log2 p_d`; 0 before training.

    Their names are `slots/changed` for the network, where every connection has equal weight, and
    `slots/hidden/changed` for the layer `hidden`. `docs/monitoring.md` explains how each is computed.

    Callbacks share one `logs` and are called in order, so list this one before those that should see its numbers:
    `EarlyStopping(monitor="slots/changed", mode="min")`, `CSVLogger`, `TensorBoard`. `History` always sees them.

    Args:
        per_layer: Whether the logs, and so the progress line, also contain the numbers of each layer. If False,
            only `History` does.

    If `fit` builds the model, changes are counted from the start of `fit` where the initial choices can be drawn
    from a seed, and otherwise from the end of its first batch. Layers that are never called, and so never built,
    are left out.

    Raises:
        ValueError: From `fit`, if the model has no slot layer.

    Example:

    >>> import keras, numpy as np
    >>> from keras_slots import SelectionMonitor, SlotDense
    >>> model = keras.Sequential([keras.Input((4,)), SlotDense(3, name="hidden"), SlotDense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[SelectionMonitor()]).history
    >>> len(history["slots/changed"]), 0 <= history["slots/hidden/changed"][0] <= 1
    (2, True)

    The paper compares the magnitudes of selected and of available weights; the other numbers are not in it.
    """

    def __init__(self, per_layer: bool = False):
        super().__init__()
        self.per_layer = per_layer
        self._watched: dict[str, _Watched] = {}
        self._waits_for_build = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._watched = {}
        self._observe(is_trained=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._waits_for_build:
            self._observe(is_trained=True)

    def _observe(self, is_trained: bool) -> None:
        """Starts observing new kernels; `is_trained` says whether they have made a step since they were built."""
        model = self.model  # accessing it writes the state of JAX into the variables
        for name, (_, kernel) in choices.named_kernels(model).items():
            if name not in self._watched:
                self._watched[name] = _Watched(kernel, is_trained)
        # On TensorFlow `fit` builds a model in its first step.
        self._waits_for_build = not is_trained and (not model.built or bool(choices.unbuilt_layers(model)))
        if not self._watched and not self._waits_for_build:
            raise ValueError(
                f"`SelectionMonitor` needs a model with slot layers. Received: model '{model.name}' with the "
                f"layers {[layer.name for layer in model.layers]}. Leave the callback out."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        model = self.model  # see above
        found = {name: watched.measure() for name, watched in self._watched.items()}
        kernels = [watched.kernel for watched in self._watched.values()]
        for key in ("changed", "magnitude", "reach", "bits"):
            weights = [k.initial.num_connections * (k.num_values if key == "reach" else 1) for k in kernels]
            numbers = [of_kernel[key] for of_kernel in found.values()]
            logs[f"slots/{key}"] = float(np.average(numbers, weights=weights))
        by_layer = {f"slots/{name}/{key}": x for name, numbers in found.items() for key, x in numbers.items()}
        history = getattr(model, "history", None)
        if self.per_layer:
            logs.update(by_layer)
        elif isinstance(history, keras.callbacks.History):
            # The progress bar prints whatever is in `logs`: four numbers for each layer would fill the screen.
            for name, number in by_layer.items():
                history.history.setdefault(name, []).append(number)


class _Watched:
    """A kernel, and the earlier choices with which its choices are compared."""

    def __init__(self, kernel: SlotKernel, is_trained: bool):
        start = choices.start_positions(kernel)
        self.kernel = kernel
        self.last = start if is_trained and start is not None else choices.positions(kernel)
        self.start = self.last if start is None else start
        self._available = choices.mean_magnitude(choices.available_values(kernel))

    def measure(self) -> dict[str, float]:
        """Returns the four numbers of an epoch."""
        last, self.last = self.last, choices.positions(self.kernel)
        return {
            "changed": float(np.mean(self.last != last)),
            "magnitude": choices.mean_magnitude(choices.selected_values(self.kernel)) / self._available,
            "reach": self.kernel.reach(),
            "bits": choices.bits_per_choice(self.last, self.start, self.kernel.num_values),
        }
