"""`summary`: what a model of slot layers selects from, and its memory use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_slots.inspect.choices import bits_per_choice, named_kernels, positions, start_positions, unbuilt_layers
from keras_slots.kernels.base import SlotKernel
from keras_slots.kernels.regularizers import regularizer_text
from keras_slots.layers.base import SlotLayer
from keras_slots.selection import serialize_rule
from keras_slots.slots_file import file_of
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
#: Columns of words, which are left-justified.
_WORDS = ("kernel", "score mode", "selection", "scores", "sharing", "moves")
#: The columns that a narrow table can do without, the least needed first.
_DISPENSABLE = (
    *("scores", "moves", "sharing", "selection", "score mode", "in reach", "bits", "shape"),
    *("optimizer", "held", "trained", "bank", "materialized"),
)


def summary_dict(model: keras.Model, slots_file: bool = False) -> dict[str, Any]:
    """Returns what `summary` prints, as numbers; those that are not known are None.

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
    _, content, in_file = file_of(model) if slots_file else (None, None, {})
    rows = [_kernel_row(name, *pair, in_file) for name, pair in kernels.items()]
    ours = {id(v) for _, kernel in kernels.values() for v in kernel.variables}
    plain = _plain_row([v for v in model.weights if id(v) not in ours])
    total: dict[str, Any] = {"connections": sum(row["connections"] for row in rows)}
    for key in _BYTES:
        sizes = [row.get(key, 0) for row in (*rows, plain)]
        total[key] = None if None in sizes else sum(sizes)
    # Keras creates the variables of an optimizer in the first training step.
    started = getattr(getattr(model, "optimizer", None), "built", False)
    total["optimizer_bytes"] = sum(map(_bytes, model.optimizer.variables)) if started else None
    total["slots_bytes"] = None if content is None else len(content)
    return {"kernels": rows, "plain": plain, "total": total, "unbuilt": unbuilt}


def summary(model: keras.Model, print_fn: Callable[[str], Any] | None = None, slots_file: bool = False) -> None:
    """Prints what each slot layer of a model selects from, and its memory use.

    `model.summary()` counts bank and scores, or lever and staircase, as parameters. This function separates what
    is fixed, what is trained, and the size of the selected network. It fits the terminal by leaving out columns.

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

    own: dict[str, Any] = {} if print_fn is None else {"width": 100, "color_system": None}
    console = Console(markup=False, emoji=False, highlight=False, **own)  # names of layers are not markup
    parts = _tables(model.name, summary_dict(model, slots_file), console.width)
    if print_fn is not None:
        console.begin_capture()
    console.print(*parts, sep="\n")
    if print_fn is not None:
        print_fn(console.end_capture())


def _kernel_row(name: str, layer: SlotLayer, kernel: SlotKernel, in_file: dict[int, int]) -> dict[str, Any]:
    initial, trained = kernel.initial, kernel.trained_variables()
    held = [v for v in kernel.variables if id(v) not in {id(t) for t in trained}]
    start = start_positions(kernel)
    bits = None if start is None else bits_per_choice(positions(kernel), start, kernel.num_values)
    itemsize = np.dtype(kernel.variable_dtype).itemsize
    sharing, rule = kernel.sharing, serialize_rule(kernel.rule)
    return {
        "name": name,
        "layer": type(layer).__name__,
        "shape": initial.kernel_shape,
        "connections": initial.num_connections,
        "num_values": kernel.num_values,
        "selection": rule if isinstance(rule, str) else repr(kernel.rule),
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
        "slots_bytes": in_file.get(id(kernel)),
    }


def _plain_row(weights: list[keras.Variable]) -> dict[str, Any]:
    trained = [v for v in weights if v.trainable]
    return {
        "weights": sum(math.prod(v.shape) for v in weights),
        "trained": sum(math.prod(v.shape) for v in trained),
        "trained_bytes": sum(map(_bytes, trained)),
        "materialized_bytes": sum(map(_bytes, weights)),
    }


def _bytes(variable: keras.Variable) -> int:
    return math.prod(variable.shape) * np.dtype(variable.dtype).itemsize


def _tables(name: str, found: dict[str, Any], width: int) -> list[Any]:
    """The tables and lines of `summary`."""
    kernels, plain, total = found["kernels"], found["plain"], found["total"]
    if not kernels:
        return [f"Model '{name}' has no slot layer."]
    names = [row["name"] for row in kernels]
    choices = {
        "kernel": names,
        "shape": ["×".join(map(str, row["shape"])) for row in kernels],
        "connections": [f"{row['connections']:,}" for row in kernels],
        "K": [f"{row['num_values']:,}" for row in kernels],
        "in reach": [f"{row['values_within_reach']:,.1f}" for row in kernels],
        "bits": ["–" if row["choice_bits"] is None else f"{row['choice_bits']:.2f}" for row in kernels],
        "score mode": [row["score_mode"] for row in kernels],
        "selection": [row["selection"] for row in kernels],
        "scores": [row["scores"] for row in kernels],
        "sharing": [row["sharing"].replace("connection", "") for row in kernels],
        "moves": [row["move_regularizer"] or "" for row in kernels],
    }
    rows = [*kernels, plain, total] if plain["weights"] else [*kernels, total]
    memory = {"kernel": [*names, *["plain weights", "total"][len(names) - len(rows) :]]}
    for key, heading in _BYTES.items():
        memory[heading] = [_size(row[key]) if key in row else "" for row in rows]
    if total["slots_bytes"] is None:
        del memory["in .slots"]
    (choices_table, dropped), (memory_table, more) = _table(choices, width), _table(memory, width)
    memory_table.rows[len(names) - 1].end_section = True
    lines = [
        "in reach: mean number of values of a connection that can ever be selected.",
        "held: memory that holds the bank, or a staircase or seed in its place.",
        "bits, choices: entropy of the choices, in steps from the initial ones.",
    ]
    if plain["weights"]:
        lines.append(f"plain weights: {plain['weights']:,} others, such as biases, {plain['trained']:,} trained.")
    if found["unbuilt"]:
        lines.append(f"Left out, because they are not built: {', '.join(found['unbuilt'])}.")
    if dropped or more:
        lines.append(f"Left out for lack of room: {', '.join(dropped + more)}. `summary_dict` has them.")
    return [f"Model '{name}'\n", choices_table, "", memory_table, "", *lines]


def _table(columns: dict[str, list[str]], width: int) -> tuple[Any, list[str]]:
    """A table of the non-empty columns that fit into the width, and the headings of those that do not.

    Where names are too long even so, they are cut; numbers never are.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    widths = {heading: max(map(cell_len, (heading, *cells))) for heading, cells in columns.items()}
    dropped = []
    for heading in _DISPENSABLE:
        if heading in columns and sum(widths[kept] + 2 for kept in columns) - 2 > width:
            dropped.append(heading)
            del columns[heading]
    room = width - sum(widths[kept] + 2 for kept in columns if kept != "kernel")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in columns:
        side: Any = "left" if heading in _WORDS else "right"
        table.add_column(heading, justify=side, no_wrap=True, max_width=room if heading == "kernel" else None)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table, dropped


def _size(number: int | None) -> str:
    from rich.filesize import decimal

    return "–" if number is None else decimal(number).replace("bytes", "B")
