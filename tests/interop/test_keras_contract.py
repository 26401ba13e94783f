"""The tests that Keras has for its own layers, written anew, with slot layers in the place of its layers.

Attention and refusals are in test_keras_attention.py and test_keras_refusals.py.
"""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

# The one part of Keras that is not public: its check of what every layer must be able to do.
from keras.src.testing.test_case import TestCase

from backends import BACKEND
from comparisons import assert_close, numpy_of
from layer_table import MODES, SLOT_CLASSES, L
from plain_models import kernel_layers, kernels

VALUES = (8, 1)


def _attention(*query, value=None, **arguments):
    return ("MultiHeadAttention", {"num_heads": 2, "key_dim": 2, **arguments}, query, value)


#: Class, arguments, shape of the input (of the query, for attention), shape of the value.
CASES = {
    "dense": ("Dense", {"units": 4, "activation": "relu", "use_bias": False}, (2, 3), None),
    "dense_3d": (
        "Dense",
        {"units": 5, "activation": "sigmoid", "kernel_regularizer": "l2", "bias_regularizer": "l2"},
        (2, 3, 4),
        None,
    ),
    "conv1d": ("Conv1D", {"filters": 5, "kernel_size": 2}, (3, 5, 4), None),
    "conv1d_same": (
        "Conv1D",
        {"filters": 6, "kernel_size": 2, "padding": "same", "dilation_rate": (2,), "groups": 2},
        (3, 4, 4),
        None,
    ),
    "conv1d_causal": (
        "Conv1D",
        {"filters": 6, "kernel_size": 2, "padding": "causal", "dilation_rate": (2,), "groups": 2},
        (3, 4, 4),
        None,
    ),
    "conv1d_strides": ("Conv1D", {"filters": 6, "kernel_size": 2, "strides": (2,), "groups": 2}, (3, 5, 4), None),
    "conv2d": ("Conv2D", {"filters": 5, "kernel_size": 2}, (3, 5, 5, 4), None),
    "conv2d_same": (
        "Conv2D",
        {"filters": 6, "kernel_size": 2, "padding": "same", "dilation_rate": 2, "groups": 2},
        (3, 4, 4, 4),
        None,
    ),
    "conv2d_strides": (
        "Conv2D",
        {"filters": 6, "kernel_size": (2, 2), "strides": (2, 1), "groups": 2},
        (3, 5, 5, 4),
        None,
    ),
    "conv3d": ("Conv3D", {"filters": 5, "kernel_size": 2}, (2, 4, 4, 4, 3), None),
    "conv3d_strides": (
        "Conv3D",
        {"filters": 6, "kernel_size": (2, 2, 3), "strides": (2, 1, 2), "groups": 2},
        (2, 5, 5, 5, 4),
        None,
    ),
    "conv1d_transpose": (
        "Conv1DTranspose",
        {"filters": 6, "kernel_size": 2, "strides": 3, "padding": "same", "output_padding": 2},
        (2, 8, 4),
        None,
    ),
    "conv2d_transpose": (
        "Conv2DTranspose",
        {"filters": 6, "kernel_size": (2, 3), "strides": (2, 1)},
        (2, 6, 6, 4),
        None,
    ),
    "conv2d_transpose_same": (
        "Conv2DTranspose",
        {"filters": 6, "kernel_size": 5, "strides": 4, "padding": "same", "output_padding": 2},
        (2, 4, 4, 4),
        None,
    ),
    "conv3d_transpose": (
        "Conv3DTranspose",
        {"filters": 6, "kernel_size": (2, 2, 3), "strides": (2, 1, 2)},
        (2, 4, 4, 4, 3),
        None,
    ),
    "depthwise1d": (
        "DepthwiseConv1D",
        {"kernel_size": 2, "depth_multiplier": 6, "padding": "same", "dilation_rate": (2,)},
        (3, 4, 4),
        None,
    ),
    "depthwise2d": (
        "DepthwiseConv2D",
        {"kernel_size": (2, 2), "depth_multiplier": 3, "strides": (2, 2)},
        (3, 5, 5, 4),
        None,
    ),
    "separable1d": (
        "SeparableConv1D",
        {"filters": 6, "kernel_size": 2, "depth_multiplier": 5, "strides": (2,)},
        (3, 5, 4),
        None,
    ),
    "separable2d": (
        "SeparableConv2D",
        {"filters": 6, "kernel_size": 2, "padding": "same", "dilation_rate": (2, 2)},
        (3, 4, 4, 4),
        None,
    ),
    **{
        f"einsum_{equation}_{bias}": (
            "EinsumDense",
            {"equation": equation, "output_shape": output, "bias_axes": bias},
            shape,
            None,
        )
        for equation, output, bias, shape in (
            ("ab,b->a", (), None, (2, 8)),
            ("ab,bc->ac", 6, None, (2, 8)),
            ("abc,cde->abde", (1, 3, 4), "e", (2, 1, 2)),
            ("abc,cde->abde", (7, 3, 4), "be", (2, 7, 2)),
            ("BFNH,NHD->BFD", (1, 4), None, (2, 1, 2, 3)),
            ("ibd,nd->ibn", (2, 2), None, (2, 2, 1)),
            ("...bc,bc->...b", (4,), None, (2, 4, 6)),
            ("...c,cde->...de", (3, 4), "d", (2, 1, 2)),
            ("bc...,cde->bde...", (3, 4), "de", (2, 1, 2)),
        )
    },
    "attention": _attention(2, 8, 16, value=(2, 4, 16)),
    # Without dropout, JAX takes a path that asks for heads of one size.
    "attention_value_dim": _attention(2, 8, 16, value=(2, 4, 16), value_dim=4, use_bias=False, dropout=0.5),
    "attention_gate": _attention(2, 8, 16, value=(2, 4, 16), use_gate=True),
    "attention_dropout": _attention(2, 8, 16, value=(2, 4, 16), dropout=0.5),
    "attention_high": _attention(3, 5, 3, 4, 8, value=(3, 5, 3, 2, 8), attention_axes=(2, 3)),
    "grouped_attention": (
        "GroupQueryAttention",
        {"head_dim": 2, "num_query_heads": 4, "num_key_value_heads": 2},
        (2, 8, 16),
        (2, 4, 16),
    ),
}
#: Every case at K = 8 in one score mode and at K = 1 in the other, turn by turn.
TURNS = [
    (name, num_values, MODES[(turn + number) % 2])
    for turn, name in enumerate(CASES)
    for number, num_values in enumerate(VALUES)
]
every_case = pytest.mark.parametrize(("name", "num_values", "mode"), TURNS)


def _classes(name):
    plain = getattr(L, CASES[name][0])
    return plain, SLOT_CLASSES[plain]


def _inputs(name, make):
    """Arguments of a call: `make(shape)` of the input, or of query and value."""
    _, _, shape, value = CASES[name]
    return [make(shape)] if value is None else [make(shape), make(value)]


def _random(shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


class _Runner(TestCase):
    def runTest(self):
        """Only here to be made."""


@pytest.mark.quick(
    "dense-8-per_value",
    "conv1d_causal-8-per_value",
    "conv2d_same-8-per_connection",
    "conv3d_strides-8-per_value",
    "conv1d_transpose-8-per_connection",
    "conv2d_transpose_same-8-per_connection",
    "conv3d_transpose-8-per_value",
    "depthwise1d-8-per_connection",
    "depthwise2d-8-per_value",
    "separable1d-8-per_connection",
    "separable2d-8-per_value",
    "einsum_abc,cde->abde_be-8-per_value",
    "attention_gate-8-per_value",
    "attention_dropout-8-per_connection",
    "grouped_attention-8-per_connection",
    "dense_3d-1-per_value",
)
@every_case
def test_slot_layer_passes_the_layer_test_of_keras(name, num_values, mode):
    plain_class, slot_class = _classes(name)
    _, arguments, shape, value = CASES[name]
    plain = plain_class(**arguments)
    expected = plain(*_inputs(name, _random)).shape
    for cls in slot_class.__mro__:
        inspect.get_annotations(cls)  # Python 3.14 adds them to `dir` when they are first read.
    _Runner().run_layer_test(
        slot_class,
        init_kwargs={**arguments, "num_values": num_values, "score_mode": mode, "seed": 1},
        input_shape=shape if value is None else {"query_shape": shape, "value_shape": value},
        expected_output_shape=tuple(expected),
        expected_num_trainable_weights=len(plain.trainable_weights),
        expected_num_seed_generators=len(plain.non_trainable_variables),
        expected_num_losses=len(plain.losses),
        supports_masking=plain.supports_masking,
        run_training_check=value is None,
    )


class Given:
    """Bank and scores of given numbers, in the order in which the layer asks for them."""

    def __init__(self):
        self._rng = np.random.default_rng(3)
        self.banks, self.scores = [], []

    def arguments(self):
        return {
            "bank_initializer": lambda shape, dtype=None: self._draw(self.banks, shape, dtype),
            "score_initializer": lambda shape, dtype=None: self._draw(self.scores, shape, dtype),
        }

    def _draw(self, kept, shape, dtype):
        kept.append(self._rng.normal(size=shape).astype("float32"))
        return ops.convert_to_tensor(kept[-1], dtype)

    def kernels(self):
        """The arg-max of every connection, by NumPy."""
        pairs = zip(self.banks, self.scores, strict=True)
        return [np.take_along_axis(b, s.argmax(-1)[..., None], -1)[..., 0] for b, s in pairs]


@pytest.mark.quick
@every_case
def test_slot_layer_computes_what_the_keras_layer_does_with_the_same_kernel(name, num_values, mode):
    plain_class, slot_class = _classes(name)
    arguments = CASES[name][1]
    given = Given()
    slot = slot_class(
        **arguments, num_values=num_values, score_mode=mode, bias_initializer="ones", **given.arguments()
    )
    plain = plain_class(**arguments, bias_initializer="ones")
    inputs = _inputs(name, _random)
    y = slot(*inputs)
    plain(*inputs)
    wanted = iter(given.kernels())
    for holder in kernel_layers(plain):
        for kernel_name in kernels(holder):
            getattr(holder, kernel_name).assign(next(wanted))
    assert next(wanted, None) is None
    assert_close(y, plain(*inputs))


@pytest.mark.quick(
    "dense",
    "conv1d_causal",
    "conv2d_same",
    "conv3d_strides",
    "conv1d_transpose",
    "conv2d_transpose_same",
    "conv3d_transpose",
    "depthwise1d",
    "depthwise2d",
    "separable1d",
    "separable2d",
    "einsum_abc,cde->abde_be",
    "attention_gate",
    "attention_dropout",
    "grouped_attention",
)
@pytest.mark.parametrize("name", CASES)
def test_compute_output_shape_is_that_of_the_output(name):
    _, slot_class = _classes(name)
    shapes = _inputs(name, tuple)
    for layer in (slot_class(**CASES[name][1]), slot_class(**CASES[name][1])):
        y = layer(*_inputs(name, _random))
        assert tuple(layer.compute_output_shape(*shapes)) == tuple(y.shape)
        symbolic = layer(*_inputs(name, lambda shape: keras.KerasTensor(shape)))
        assert symbolic.shape == y.shape


@pytest.mark.tensorflow
@pytest.mark.jax
@pytest.mark.parametrize("mode", MODES)
def test_dense_takes_sparse_inputs(mode):
    arguments = {"units": 4, "score_mode": mode, "seed": 1}
    _Runner().run_layer_test(
        SLOT_CLASSES[L.Dense],
        init_kwargs=arguments,
        input_shape=(2, 3),
        input_sparse=True,
        expected_output_shape=(2, 4),
        expected_num_losses=0,
    )
    x = np.random.default_rng(0).random((10, 10)).astype("float32")
    x *= x >= 0.8
    layer = SLOT_CLASSES[L.Dense](**arguments)
    assert_close(layer(BACKEND.sparse(x)), x @ numpy_of(layer.kernel) + numpy_of(layer.bias))
