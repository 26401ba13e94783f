"""`summary`: what a model of slot layers selects from, and its memory use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_slots.inspect.choices import bits_per_choice, named_kernels, positions, start_positions, unbuilt_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.regularizers import regularizer_text
from keras_slots.layers.base import SlotLayer
from keras_slots.selection import serialize_rule
from keras_slots.slots_file import sizes
from keras_slots.values.value_bank import ValueBank

#: The columns in bytes, and their printed headings.
_BYTES = {
    "bank_bytes": "bank",
    "held_bytes": "held",
    "trained_bytes": "trained",
    "optimizer_bytes": "optimizer",
    "materialized_bytes": "materialized",
    "choice_bytes": "choices",
    "slots_bytes": "in .slots",
}


def summary_dict(model: keras.Model, slots_file: bool = False) -> dict[str, Any]:
    """Returns what `summary` prints, as numbers; None for those that are not known.

    - `"kernels"`: for each kernel `name`, `layer` (its class), `shape`, `connections`, `num_values`, `selection`,
      `score_mode`, `scores`, `sharing`, `move_regularizer`; `values_within_reach`, the mean number of its K
      values that greedy selection can take; `choice_bits`, the entropy of the choices in bits per connection; and
      sizes in bytes: `bank_bytes` of all values, `held_bytes` of what is in memory for them (the bank, a
      staircase, or a seed), `trained_bytes` of scores or levers, `materialized_bytes` of the plain kernel,
      `choice_bytes` of the choices, and `slots_bytes` in a file of `save_slots`.
    - `"plain"`: for all other weights together, their number `weights`, the number of `trained` ones, and sizes in
      bytes under the same keys.
    - `"total"`: the sums of the sizes, including the plain weights, and of `connections`; and `optimizer_bytes`.
    - `"unbuilt"`: the names of slot layers that are not built, which are left out.

    Args:
        model: Built model of any kind.
        slots_file: Whether to also compute the size of a file of `save_slots`, which takes a few seconds for a
            million connections; the total is that of the whole file.

    Returns:
        A dictionary of `"kernels"`, a list of dictionaries, `"plain"`, `"total"` and `"unbuilt"`.

    Raises:
        ValueError: If the model is not built; with `slots_file`, if `save_slots` refuses it.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, summary_dict
    >>> found = summary_dict(keras.Sequential([keras.Input((784,)), SlotDense(300, seed=0)]))
    >>> found["total"]["connections"], found["total"]["bank_bytes"], found["total"]["materialized_bytes"]
    (235200, 7526400, 942000)
    """
    kernels, unbuilt = named_kernels(model), unbuilt_layers(model)
    if not model.built or (unbuilt and not kernels):
        raise ValueError(
            f"`model` must be built, because it has no kernels before. Received: model '{model.name}' "
            f"with {unbuilt} not built. Call it on an input first, or `model.build(input_shape)`."
        )
    in_file, whole_file = sizes(model) if slots_file else ({}, None)
    rows = []
    for name, (layer, kernel) in kernels.items():
        row = _kernel_row(name, layer, kernel)
        rows.append({**row, "slots_bytes": in_file.get(id(kernel))})
    ours = {id(v) for _, kernel in kernels.values() for v in kernel.variables}
    plain = _plain_row([v for v in model.weights if id(v) not in ours])
    total: dict[str, Any] = {"connections": sum(row["connections"] for row in rows)}
    for key in _BYTES:
        total[key] = _sum(row.get(key, 0) for row in (*rows, plain))
    total["optimizer_bytes"] = _optimizer_bytes(model)
    total["slots_bytes"] = whole_file
    return {"kernels": rows, "plain": plain, "total": total, "unbuilt": unbuilt}


def summary(model: keras.Model, print_fn: Callable[[str], Any] | None = None, slots_file: bool = False) -> None:
    """Prints what each slot layer of a model selects from, and its memory use.

    `model.summary()` counts bank and scores, or lever and staircase, as parameters. This function separates what
    is fixed, what is trained, and the size of the selected network.

    Args:
        model: Built model of any kind.
        print_fn: Function that is called with the whole text, 100 columns wide, instead of printing it.
        slots_file: Whether to add the size of a file of `save_slots`, which takes a few seconds for a million
            connections.

    Raises:
        ValueError: If the model is not built; with `slots_file`, if `save_slots` refuses it.

    Example:

    >>> import keras
    >>> from keras_slots import SlotDense, summary
    >>> model = keras.Sequential([keras.Input((784,)), SlotDense(300, name="hidden", seed=0)])
    >>> lines = []
    >>> summary(model, print_fn=lines.append)
    >>> "235,200" in lines[0]
    True
    """
    from rich.console import Console

    parts = _tables(model.name, summary_dict(model, slots_file))
    if print_fn is None:
        Console().print(*parts, sep="\n")
        return
    console = Console(width=100)
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    print_fn(capture.get())


def _kernel_row(name: str, layer: SlotLayer, kernel: SlotKernel) -> dict[str, Any]:
    initial, trained = kernel.initial, kernel.trained_variables()
    held = [v for v in kernel.variables if id(v) not in {id(t) for t in trained}]
    start, bits = start_positions(kernel), None
    if start is not None:
        bits = bits_per_choice(positions(kernel), start, kernel.num_values)
    itemsize = np.dtype(kernel.variable_dtype).itemsize
    sharing = kernel.sharing
    return {
        "name": name,
        "layer": type(layer).__name__,
        "shape": initial.kernel_shape,
        "connections": initial.num_connections,
        "num_values": kernel.num_values,
        "selection": _text(serialize_rule(kernel.rule), kernel.rule),
        "score_mode": layer.score_mode,
        "scores": type(kernel.score_initializer).__name__,
        "sharing": "ValueBank" if isinstance(sharing, ValueBank) else sharing,
        "move_regularizer": regularizer_text(kernel.move_regularizer),
        "values_within_reach": kernel.reach() * kernel.num_values,
        "choice_bits": bits,
        "bank_bytes": math.prod(initial.bank_shape) * itemsize,
        "held_bytes": sum(map(_bytes, held)),
        "trained_bytes": sum(map(_bytes, trained)),
        "materialized_bytes": initial.num_connections * itemsize,
        "choice_bytes": None if bits is None else math.ceil(bits * initial.num_connections / 8),
    }


def _text(name: Any, thing: Any) -> str:
    return name if isinstance(name, str) else repr(thing)


def _plain_row(weights: list[keras.Variable]) -> dict[str, Any]:
    trained = [v for v in weights if v.trainable]
    return {
        "weights": sum(math.prod(v.shape) for v in weights),
        "trained": sum(math.prod(v.shape) for v in trained),
        "trained_bytes": sum(map(_bytes, trained)),
        "materialized_bytes": sum(map(_bytes, weights)),
    }


def _optimizer_bytes(model: keras.Model) -> int | None:
    """Bytes of the optimizer; None before the first training step, in which Keras creates its variables."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return None
    return sum(map(_bytes, optimizer.variables))


def _bytes(variable: keras.Variable) -> int:
    return math.prod(variable.shape) * np.dtype(variable.dtype).itemsize


def _sum(numbers: Iterable[int | None]) -> int | None:
    numbers = list(numbers)
    return None if any(x is None for x in numbers) else sum(x for x in numbers if x is not None)


def _tables(name: str, found: dict[str, Any]) -> list[Any]:
    """The tables and lines of `summary`."""
    kernels, plain, total = found["kernels"], found["plain"], found["total"]
    if not kernels:
        return [f"Model '{name}' has no slot layer."]
    choices = _table("kernel", "shape", "connections", "K", "in reach", "bits")
    choices.add_column("settings")
    for row in kernels:
        reach, bits = row["values_within_reach"], row["choice_bits"]
        choices.add_row(
            row["name"],
            "×".join(map(str, row["shape"])),
            f"{row['connections']:,}",
            f"{row['num_values']:,}",
            f"{reach:.1f}" if reach < 100 else f"{reach:,.0f}",
            "–" if bits is None else f"{bits:.2f}",
            _settings(row),
        )
    columns = [key for key in _BYTES if key != "slots_bytes" or total[key] is not None]
    weights = _table("kernel", *(_BYTES[key] for key in columns))
    for row in kernels:
        weights.add_row(row["name"], *_sizes(row, columns))
    weights.add_section()
    if plain["weights"]:
        label = f"{plain['weights']:,} plain weights, {plain['trained']:,} trained"
        weights.add_row(label, *_sizes(plain, columns))
    weights.add_row("total", *_sizes(total, columns))
    parts = [f"Model '{name}'", choices, weights]
    if found["unbuilt"]:
        parts.append(f"Left out, because they are not built: {', '.join(found['unbuilt'])}\n")
    return [*parts, _NOTE]


def _settings(row: dict[str, Any]) -> str:
    settings = [row["selection"], row["score_mode"], row["scores"]]
    settings += [f"shared: {row['sharing']}"] if row["sharing"] != "connection" else []
    settings += [f"moves: {row['move_regularizer']}"] if row["move_regularizer"] else []
    return ", ".join(settings)


def _table(first: str, *headings: str) -> Any:
    """A table without vertical lines: names on the left, numbers on the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _sizes(row: dict[str, Any], columns: list[str]) -> list[str]:
    """The cells of a row: empty if the row has no such column, and a dash if the number is not known."""
    from rich.filesize import decimal

    def cell(number: int | None) -> str:
        return "–" if number is None else f"{number} B" if number < 1000 else decimal(number)

    return [cell(row[key]) if key in row else "" for key in columns]


_NOTE = """\
in reach: mean number of values of a connection that greedy selection can ever take.
held: memory that holds the bank, or a staircase or seed in its place.
bits, choices: entropy of the choices, in steps from the initial ones."""
