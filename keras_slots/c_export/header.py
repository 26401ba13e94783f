"""The text of the header in C: the parts of `code.c` that the stages need, their constants, and one function."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from keras_slots.c_export.banks import Bank, choice_bits, packed
from keras_slots.c_export.integers import Addition, Integers, Requantization
from keras_slots.c_export.plan import Stage
from keras_slots.version import __version__

Array = np.ndarray[Any, Any]

_LARGEST_FLOAT = float(np.finfo("float32").max)
#: Bytes of stack under `predict` that Cortex-M code of GCC takes, rounded up.
STACK = 350


def header(name: str, stages: list[Stage], input_shape: tuple[int, ...], integers: Integers | None) -> str:
    """The header of a network; `integers` are the constants of the integer variant."""
    return Writer(name, stages, input_shape, integers).text()


class Writer:
    """Writes one header."""

    def __init__(self, name: str, stages: list[Stage], input_shape: tuple[int, ...], integers: Integers | None):
        self.name, self.stages, self.input_shape, self.integers = name, stages, input_shape, integers
        self.flash = 0
        self.constants: list[str] = []
        self.arrays: dict[tuple[str, bytes], str] = {}
        self.banks = [stage.bank for stage in stages if stage.bank is not None]
        self.tables = any(bank.table is not None for bank in self.banks)
        self.hashes = any(bank.hashed is not None for bank in self.banks)
        self.rows = max((s.bank.index.shape[0] for s in stages if s.kind == "convolution" and s.bank), default=0)
        sums = [s.channels for s in (stages[:-1] if integers and integers.sums else stages) if s.kind == "dense"]
        #: The size of the array of the sums of a dense layer; floats are summed where they stay.
        self.sums = 0 if integers is None else max(sums, default=0)
        #: Whether the last stage writes to the caller's array.
        self.direct = integers is None or integers.sums
        self.offsets, self.buffer = place(stages[:-1] if self.direct else stages, stages)

    def text(self) -> str:
        self._stages()
        parts = [self._comment(), self._start(), self._code(), *self.constants, self._predict(), "#endif\n"]
        return self._named("\n".join(parts))

    def _named(self, text: str) -> str:
        return re.sub(r"\bNET_", f"{self.name.upper()}_", re.sub(r"\bnet_", f"{self.name}_", text))

    # The constants.

    def _array(self, name: str, kind: str, values: Array, dtype: str) -> str:
        """Adds an array of constants, unless there is an equal one; returns its name."""
        data = np.ascontiguousarray(values, dtype)
        key = (kind, data.tobytes())
        if key not in self.arrays:
            self.arrays[key] = name
            self.flash += data.nbytes
            items = [_float(x) if data.dtype.kind == "f" else str(x) for x in data.tolist()]
            body = _lines(items)
            self.constants.append(f"static const {kind} {name}[{len(items)}] = {{\n{body}\n}};\n")
        return self.arrays[key]

    def _stages(self) -> None:
        self.labels: list[str] = []
        for number, stage in enumerate(self.stages):
            label = f"net_{number + 1}_{re.sub(r'[^A-Za-z0-9]', '_', stage.name)}"
            self.labels.append(label)
            make = {
                "dense": self._dense,
                "convolution": self._convolution,
                "max pooling": self._max_pooling,
                "average pooling": self._average_pooling,
                "affine": self._affine,
                "add": self._add,
            }[stage.kind]
            kind, layout, fields = make(number, stage, label)
            self.flash += struct.calcsize(layout + "0I" * ("I" in layout))
            body = ",\n".join(f"    .{key} = {value}" for key, value in fields.items())
            self.constants.append(f"static const net_{kind} {label} = {{\n{body}\n}};\n")

    def _kernel(self, bank: Bank, choices: Array, label: str) -> tuple[str, str]:
        """The layout and the initializer of a kernel."""
        fields = {
            "choices": self._array(f"{label}_choices", "uint8_t", choices.reshape(-1), "uint8"),
            "choice_bits": str(choice_bits(bank.num_values)),
            "inputs": str(bank.index.shape[0]),
            "outputs": str(bank.index.shape[1]),
        }
        if bank.hashed is not None:
            (low, high), grid = bank.hashed.keys, bank.hashed.grid
            fields |= {"key0": f"0x{low:08X}", "key1": f"0x{high:08X}", "stratum_bits": str(grid.stratum_bits)}
            fields |= {"step": str(grid.step), "lowest": str(grid.lowest)}
        if bank.table is not None:
            values = bank.table if self.integers is None else bank.integers(bank.table)
            dtype = "float32" if self.integers is None else "int8"
            fields["table"] = self._array(f"{label}_values", "net_weight", values, dtype)
        return "0IIBHH" + "IIBBi" * self.hashes + "I" * self.tables + "0I", _braces(fields)

    def _scale(self, number: int, stage: Stage, label: str) -> tuple[str, str]:
        """The layout and the initializer of what makes a value of a sum."""
        if self.integers is not None:
            step = self.integers.steps[number]
            assert isinstance(step, Requantization)
            fields = {}
            if len(step.multipliers):
                fields["multipliers"] = self._array(f"{label}_multipliers", "int32_t", step.multipliers, "int32")
            if step.bias is not None:
                fields["bias"] = self._array(f"{label}_bias", "int32_t", step.bias, "int32")
            fields |= {"offset": str(step.offset), "shift": str(step.shift)}
            fields["per_output"] = str(int(len(step.multipliers) > 1))
            return "0IIIiBB0I", _braces(fields)
        gain = stage.gain * _float_unit(stage)
        gain = gain[:1] if (gain == gain[0]).all() else gain
        fields = {"multipliers": self._array(f"{label}_multipliers", "float", gain, "float32")}
        if stage.bias.any():
            bias = np.broadcast_to(stage.bias, stage.channels)
            fields["bias"] = self._array(f"{label}_bias", "float", bias, "float32")
        fields |= _bounds(stage)
        fields["per_output"] = str(int(len(gain) > 1))
        return "0IIIffB0I", _braces(fields)

    def _zero(self, stage: Stage) -> dict[str, str]:
        return {} if self.integers is None else {"zero": str(self.integers.of(stage.inputs[0]).zero)}

    def _dense(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        assert stage.bank is not None
        choices = packed(stage.bank.index, stage.bank.num_values)
        one, kernel = self._kernel(stage.bank, choices, label)
        two, scale = self._scale(number, stage, label)
        zero, row = self._zero(stage), str(choices.shape[1])
        return (
            "dense_layer",
            one + two + "H" + "B" * len(zero),
            {"kernel": kernel, "scale": scale, "row": row, **zero},
        )

    def _convolution(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        assert stage.bank is not None and stage.window is not None
        choices = packed(stage.bank.index.T.reshape(1, -1), stage.bank.num_values)
        one, kernel = self._kernel(stage.bank, choices, label)
        two, scale = self._scale(number, stage, label)
        group = stage.bank.index.shape[1] * stage.depth // stage.window.image[2]
        fields = {"kernel": kernel, "scale": scale, "window": _window(stage), "depth": str(stage.depth)}
        fields |= {"group": str(group), "pool_y": str(stage.pool[0]), "pool_x": str(stage.pool[1])}
        zero = self._zero(stage)
        return "convolution_layer", one + two + "13H4H" + "B" * len(zero), {**fields, **zero}

    def _max_pooling(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        return "window", "13H", _window_fields(stage)

    def _average_pooling(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        layout, scale = self._scale(number, stage, label)
        zero = self._zero(stage)
        return (
            "average_layer",
            "13H" + layout + "B" * len(zero),
            {"window": _window(stage), "scale": scale, **zero},
        )

    def _affine(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        layout, scale = self._scale(number, stage, label)
        zero = self._zero(stage)
        fields = {"scale": scale, "size": str(stage.size), "channels": str(stage.channels), **zero}
        return "affine_layer", layout + "IH" + "B" * len(zero), fields

    def _add(self, number: int, stage: Stage, label: str) -> tuple[str, str, dict[str, str]]:
        if self.integers is None:
            return "add_layer", "Iff", {"size": str(stage.size), **_bounds(stage)}
        step = self.integers.steps[number]
        assert isinstance(step, Addition)
        first, second = step.multipliers
        zeros = [self.integers.of(i).zero for i in stage.inputs]
        fields = {"size": stage.size, "multiplier1": first, "multiplier2": second, "offset": step.offset}
        fields |= {"shift": step.shift, "zero1": zeros[0], "zero2": zeros[1]}
        return "add_layer", "IiiiBBB", {key: str(value) for key, value in fields.items()}

    # The code.

    def _code(self) -> str:
        kinds = {stage.kind for stage in self.stages}
        variant = "floats" if self.integers is None else "integers"
        sums = self.integers is not None and self.integers.sums
        dense = [stage for stage in (self.stages[:-1] if sums else self.stages) if stage.kind == "dense"]
        either = self.hashes and self.tables
        wanted = {
            f"values: {variant}": True,
            "kernel": bool(self.banks),
            "kernel: hash": self.hashes,
            "kernel: table": self.tables,
            "kernel: end": bool(self.banks),
            "choice: five in a byte": any(bank.num_values == 3 for bank in self.banks),
            "choice: bits": bool(self.banks),
            "hash": self.hashes,
            "weight": bool(self.banks),
            "weight: table": self.tables and not either,
            "weight: either": either,
            "weight: hash": self.hashes,
            "weight: end": bool(self.banks),
            f"scale: {variant}": bool(kinds - {"max pooling", "add"}),
            f"finish: {variant}": bool(dense) or bool(kinds - {"dense", "max pooling", "add"}),
            "window": bool(kinds & {"convolution", "max pooling", "average pooling"}),
            "dense: sums": self.sums > 0,
            "dense: values": bool(dense),
            "dense: output": sums,
            f"add: {variant}": "add" in kinds,
        }
        for kind in ("dense", "convolution", "max pooling", "average pooling", "affine"):
            wanted[kind] = wanted[f"{kind}: end"] = kind in kinds
            wanted[f"{kind}: zero"] = kind in kinds and self.integers is not None
        _, *parts = re.split(r"^/\*\*\* (.*) \*/\n", _code_file(), flags=re.MULTILINE)
        code = "".join(text for title, text in zip(parts[::2], parts[1::2], strict=True) if wanted.get(title))
        code = code.replace("NET_ROW", str(self.rows)).replace("[NET_SUMS]", f"[{self.sums}]")
        if self.integers is not None:
            return code.replace("NET_ZERO", "layer->zero").replace("NET_SUMS_OF_OUT", "net_sums")
        code = code.replace("NET_SUMS_OF_OUT", "out")
        code = re.sub(r"\((\S+) - (NET_ZERO|zero)\)", r"\1", code)
        code = re.sub(r", (NET_ZERO|net_sum zero)\)", ")", code)
        return code.replace(" - NET_ZERO", "").replace("NET_ZERO", "0")

    def _predict(self) -> str:
        lines = []
        for number, stage in enumerate(self.stages):
            is_last = number == len(self.stages) - 1
            inputs = [self._place(i) for i in stage.inputs]
            target = "output" if is_last and self.direct else self._place(number)
            function = stage.kind.replace(" ", "_")
            if is_last and self.integers is not None and self.integers.sums:
                function = "dense_output"
            arguments = ", ".join([f"&{self.labels[number]}", *inputs, target])
            lines.append(f"    net_{function}({arguments});")
        size, last = self.stages[-1].size, len(self.stages) - 1
        if not self.direct:
            assert self.integers is not None
            zero = self.integers.bytes[-1].zero
            at = self._place(last).removeprefix("net_buffer + ")
            lines.append(f"    for (unsigned i = 0; i < {size}; i++) output[i] = net_buffer[{at} + i] - {zero};")
        if size > 1:
            lines += [
                "    int largest = 0;",
                f"    for (int i = 1; i < {size}; i++)",
                "        if (output[i] > output[largest]) largest = i;",
                "    return largest;",
            ]
        else:
            lines.append("    return output[0] > 0;")
        what = "the number of the largest output" if size > 1 else "whether the output is positive"
        kind = "float" if self.integers is None else "int32_t"
        top = [f"/* Runs the network; returns {what}. Not for two threads at once. */"]
        if self.buffer:
            top.insert(0, f"static net_value net_buffer[{self.buffer}]; /* activations */\n")
        top.append(f"static int net_predict(const net_value input[{self._inputs()}], {kind} output[{size}])\n{{")
        return "\n".join([*top, *lines, "}", ""])

    def _place(self, stage: int) -> str:
        return "input" if stage < 0 else f"net_buffer + {self.offsets[stage]}"

    def _inputs(self) -> int:
        return int(np.prod(self.input_shape))

    def _start(self) -> str:
        lines = [f"#define NET_INPUTS {self._inputs()}", f"#define NET_OUTPUTS {self.stages[-1].size}"]
        extra = ""
        if self.integers is not None:
            given = self.integers.input
            lines += [
                f"#define NET_INPUT_SCALE {_float(given.scale)}",
                f"#define NET_INPUT_ZERO {given.zero}",
                f"#define NET_OUTPUT_SCALE {_float(self.integers.output_scale)}",
            ]
            extra = (
                "\n/* The byte of an input that is a float. */\n"
                "static inline uint8_t net_byte(float x)\n{\n"
                "    x = x / NET_INPUT_SCALE + (NET_INPUT_ZERO + 0.5f);\n"
                "    return x < 0 ? 0 : x > 255 ? 255 : (uint8_t)x;\n}\n"
            )
        guard = "NET_H"
        return "\n".join([f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", "", *lines, extra])

    def _comment(self) -> str:
        bytes_of_value = 4 if self.integers is None else 1
        rows = self.rows * bytes_of_value
        activations, sums = self.buffer * bytes_of_value, 4 * self.sums
        shape = " x ".join(map(str, self.input_shape))
        table = [f"     {'layer':28}{'output':>16}{'K':>6}{'connections':>13}"]
        for stage in self.stages:
            output = " x ".join(map(str, stage.shape))
            bank = ("", "") if stage.bank is None else (stage.bank.num_values, f"{stage.bank.index.size:,}")
            table.append(f"     {stage.name[:28]:28}{output:>16}{bank[0]:>6}{bank[1]:>13}".rstrip())
        if self.integers is None:
            use = ["`input` and `output` are floats."]
        else:
            use = [
                "An input is a byte, (byte - NET_INPUT_ZERO) * NET_INPUT_SCALE; net_byte(x) makes it of a float.",
                "An output is an integer that, times NET_OUTPUT_SCALE, is the output of the model.",
            ]
        lines = [
            f"/* {self.name}: a network whose weights are made from a hash while they are used.",
            f"   Written by keras_slots {__version__}, in C99 that needs no library and allocates nothing.",
            "",
            "   Include this file in one file of a program, and call",
            "       int class = net_predict(input, output);",
            *(f"   {line}" for line in use),
            f"   `input` has NET_INPUTS entries in the order {shape}, `output` has NET_OUTPUTS.",
            "",
            f"   Flash: {self.flash:,} bytes of constants on a 32-bit processor, and the code.",
            f"   RAM: {activations + rows + sums:,} bytes, and about {STACK} bytes of stack:",
            f"   activations {activations:,}, weights of one output {rows:,}, sums {sums:,}.",
            "",
            *table,
            "*/",
        ]
        return "\n".join(lines)


def place(placed: list[Stage], stages: list[Stage]) -> tuple[dict[int, int], int]:
    """Where the output of each stage begins in the buffer, and the size of the buffer.

    Outputs share memory if they are not needed at the same time; what is computed entry by entry replaces its
    input.
    """
    last_use = {i: number for number, stage in enumerate(stages) for i in stage.inputs}
    offsets: dict[int, int] = {}
    for number, stage in enumerate(placed):
        dying = [i for i in stage.inputs if i >= 0 and last_use[i] == number and stages[i].size == stage.size]
        if stage.kind in ("affine", "add") and dying:
            offsets[number] = offsets[dying[0]]
            continue
        busy = sorted((offsets[i], offsets[i] + stages[i].size) for i in offsets if last_use.get(i, 0) >= number)
        at = 0
        for begin, end in busy:
            if at + stage.size <= begin:
                break
            at = max(at, end)
        offsets[number] = at
    return offsets, max((offsets[i] + stages[i].size for i in offsets), default=0)


def _code_file() -> str:
    return Path(__file__).with_name("code.c").read_text(encoding="utf-8")


def _float_unit(stage: Stage) -> float:
    """What a sum of products with the weights of the C code is multiplied by."""
    if stage.bank is None or stage.bank.hashed is None:
        return stage.share
    return float(stage.bank.hashed.unit)


def _window_fields(stage: Stage) -> dict[str, str]:
    w = stage.window
    assert w is not None
    names = (
        *("in_height", "in_width", "channels", "out_height", "out_width", "height", "width"),
        *("stride_y", "stride_x", "dilation_y", "dilation_x", "top", "left"),
    )
    values = (*w.image, *w.count, *w.size, *w.strides, *w.dilation, *w.before)
    return {name: str(value) for name, value in zip(names, values, strict=True)}


def _window(stage: Stage) -> str:
    return _braces(_window_fields(stage))


def _bounds(stage: Stage) -> dict[str, str]:
    low, high = (float(np.clip(x, -_LARGEST_FLOAT, _LARGEST_FLOAT)) for x in stage.bounds)
    return {"low": _float(low), "high": _float(high)}


def _braces(fields: dict[str, str]) -> str:
    items = [f".{key} = {value}" for key, value in fields.items()]
    return "{\n" + _lines(items, "        ") + "}"


def _float(x: float) -> str:
    text = f"{float(np.float32(x)):.9g}"
    return (text if re.search(r"[.e]", text) else f"{text}.0") + "f"


def _lines(items: list[str], indent: str = "    ") -> str:
    """Items with commas, in lines of at most 100 characters."""
    lines, line = [], indent
    for item in items:
        if len(line) + len(item) > 100:
            lines.append(line.rstrip())
            line = indent
        line += f"{item}, "
    return "\n".join([*lines, line.rstrip(", ")])
