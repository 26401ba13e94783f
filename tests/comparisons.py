"""Numbers of tensors, variables and models as NumPy arrays, and what has to be equal."""

import keras
import numpy as np


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def arrays(outputs):
    return [numpy_of(y) for y in keras.tree.flatten(outputs)]


def assert_same(first, second):
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def weights_of(model):
    return {v.path: numpy_of(v) for v in model.variables}


def assert_same_weights(first, second):
    # In order, because the paths of seed generators are numbered.
    for old, new in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(numpy_of(new), numpy_of(old), err_msg=old.path)


def greedy_kernel(bank, scores):
    """NumPy reference of the greedy selection."""
    bank, scores = np.asarray(bank), np.asarray(scores)
    bank = np.broadcast_to(bank, scores.shape)
    return np.take_along_axis(bank, scores.argmax(-1)[..., None], -1)[..., 0]
