"""What the integer variant of the C code computes, in NumPy: from the selected weights, not from their hashes."""

import numpy as np

from keras_slots.c_export.integers import calibrated
from keras_slots.c_export.plan import Planner


def to_bytes(x, meaning):
    """Floats as bytes, rounded as `NAME_byte` does it."""
    scaled = x.astype("float32") / np.float32(meaning.scale) + np.float32(meaning.zero + 0.5)
    return np.clip(np.floor(scaled), 0, 255).astype("int64")


class IntegerNetwork:
    """A slot model in integers: `run` gives, for inputs in bytes, the outputs that the C code gives.

    All sums are exact in int64, and what does not fit into the 32 bits of the C code is an error.
    """

    def __init__(self, model, calibration_data):
        self.stages = Planner(model).run()
        self.integers = calibrated(self.stages, np.asarray(calibration_data))

    def run(self, x):
        outputs = {-1: np.asarray(x, "int64")}
        for number, stage in enumerate(self.stages):
            inputs = [outputs[i].reshape(len(x), -1) for i in stage.inputs]
            zeros = [self.integers.of(i).zero for i in stage.inputs]
            step = self.integers.steps[number]
            is_last = number == len(self.stages) - 1
            result = getattr(self, "_" + stage.kind.replace(" ", "_"))(stage, inputs, zeros, step, is_last)
            outputs[number] = result.reshape(len(x), -1)
        if self.integers.sums:
            return outputs[len(self.stages) - 1]
        return outputs[len(self.stages) - 1] - self.integers.bytes[-1].zero

    def _dense(self, stage, inputs, zeros, step, is_last):
        sums = fits(inputs[0] - zeros[0]) @ weights_of(stage)
        if is_last and self.integers.sums:
            return fits(sums + (0 if step.bias is None else step.bias))
        return finished(sums, step)

    def _convolution(self, stage, inputs, zeros, step, is_last):
        w, n = stage.window, len(inputs[0])
        x = padded(inputs[0] - zeros[0], w, 0)
        kernel = weights_of(stage).reshape(*w.size, stage.depth, -1)
        groups = w.image[2] // stage.depth
        size = kernel.shape[-1] // groups
        sums = np.zeros((n, *w.count, kernel.shape[-1]), "int64")
        for dy in range(w.size[0]):
            for dx in range(w.size[1]):
                seen = shifted(x, w, dy, dx)
                for g in range(groups):
                    mine = seen[..., g * stage.depth : (g + 1) * stage.depth]
                    outputs = slice(g * size, (g + 1) * size)
                    sums[..., outputs] += mine @ kernel[dy, dx, :, outputs]
        y = finished(sums, step)
        rows, columns = (count // pool for count, pool in zip(w.count, stage.pool, strict=True))
        return y.reshape(n, rows, stage.pool[0], columns, stage.pool[1], -1).max(axis=(2, 4))

    def _max_pooling(self, stage, inputs, zeros, step, is_last):
        x = padded(inputs[0], stage.window, -1)
        return np.max([shifted(x, stage.window, *d) for d in np.ndindex(*stage.window.size)], axis=0)

    def _average_pooling(self, stage, inputs, zeros, step, is_last):
        w = stage.window
        parts = np.array([padded(inputs[0] - zeros[0], w, 0), padded(np.ones_like(inputs[0]), w, 0)])
        sums, counts = sum(np.array([shifted(x, w, *d) for x in parts]) for d in np.ndindex(*w.size))
        whole = w.size[0] * w.size[1]
        sums = np.where(counts < whole, np.sign(sums) * (np.abs(fits(sums * whole)) // counts), sums)
        return finished(sums, step)

    def _affine(self, stage, inputs, zeros, step, is_last):
        return finished(inputs[0].reshape(-1, stage.channels) - zeros[0], step)

    def _add(self, stage, inputs, zeros, step, is_last):
        first, second = ((x - zero) * m for x, zero, m in zip(inputs, zeros, step.multipliers, strict=True))
        return np.clip(fits(first + second + step.offset) >> step.shift, 0, 255)


def weights_of(stage):
    """The selected weights as integers, which are exact unless they come from a table."""
    return np.rint(stage.bank.weights.astype("float64") / float(stage.bank.unit)).astype("int64")


def finished(sums, step):
    bias = 0 if step.bias is None else step.bias
    return np.clip(((fits(sums) * step.multipliers >> step.shift) + step.offset + bias) >> 8, 0, 255)


def fits(sums):
    assert np.abs(sums).max(initial=0) < 2**31
    return sums


def padded(x, window, value):
    x = x.reshape(-1, *window.image)
    margin = 2 * max(window.size) * max(window.dilation)  # more than any window reaches
    rows, columns = ((before, margin) for before in window.before)
    return np.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=value)


def shifted(x, window, dy, dx):
    """What entry (dy, dx) of all windows sees."""
    (y, x0), (sy, sx), (rows, columns) = (
        (dy * window.dilation[0], dx * window.dilation[1]),
        window.strides,
        window.count,
    )
    return x[:, y : y + sy * (rows - 1) + 1 : sy, x0 : x0 + sx * (columns - 1) + 1 : sx]
