"""The tests that Keras has for its attention layers, written anew, with slot layers in their place."""

import keras
import numpy as np
import pytest
from keras import ops

from comparisons import assert_close, numpy_of
from keras_slots import SlotGroupQueryAttention, SlotMultiHeadAttention
from layer_table import MODES, L, since_keras_3
from plain_models import kernel_layers, kernels, slot_layers

KINDS = {
    "many_heads": lambda **k: SlotMultiHeadAttention(num_heads=2, key_dim=4, seed=1, **k),
    "gated": lambda **k: SlotMultiHeadAttention(2, 4, use_gate=True, seed=1, **k),
    "grouped": lambda **k: SlotGroupQueryAttention(4, 4, 2, seed=1, **k),
}
SINCE = {"gated": since_keras_3(14)}
every_kind = pytest.mark.parametrize(
    "make", [pytest.param(make, id=k, marks=SINCE.get(k, ())) for k, make in KINDS.items()]
)
modes = pytest.mark.parametrize("mode", MODES)
T = 6


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape or (2, T, 8)).astype("float32")


@pytest.mark.quick
@every_kind
@modes
def test_attention_draws_other_values_for_each_projection(make, mode):
    layer = make(score_mode=mode)
    layer.build((2, 4, 8), (2, 4, 8))
    found = [kernel for x in kernel_layers(layer) for kernel in kernels(x).values()]
    assert len(found) == len(slot_layers(layer)) - 1 >= 4
    flat = [set(kernel.ravel().tolist()) for kernel in found]
    assert all(not a & b for i, a in enumerate(flat) for b in flat[:i])


# The layers of Keras hand their masked query to a projection that warns of it.
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached:UserWarning")
@every_kind
def test_attention_passes_the_mask_of_the_query_on(make):
    query = np.array([[1, 2, 3, 0, 0], [3, 3, 1, 1, 2], [1, 0, 0, 0, 0]])
    inputs = keras.Input((5,), dtype="int32")
    masked = L.Embedding(4, 8, mask_zero=True, name="words")(inputs)
    layer = make()
    pooled = keras.Model(inputs, L.GlobalAveragePooling1D()(layer(masked, masked)))
    y, mask = [], query != 0
    for row, kept in zip(query, mask, strict=True):
        embedded = numpy_of(pooled.get_layer("words")(row[None, kept]))
        y.append(numpy_of(layer(embedded, embedded)).mean(1)[0])
    assert_close(pooled(query), np.stack(y))


@every_kind
@pytest.mark.parametrize("use_causal_mask", [True, False])
def test_attention_masks_as_an_explicit_mask_does(make, use_causal_mask):
    layer, x = make(), _x()
    other = np.ones((2, T, T), bool)
    other[:, 2, 1] = False
    merged = other & np.tril(np.ones((T, T), bool)) if use_causal_mask else other
    implicit = layer(x, x, attention_mask=other, use_causal_mask=use_causal_mask)
    assert_close(implicit, layer(x, x, attention_mask=merged), atol=1e-5)
    assert np.any(numpy_of(implicit) != numpy_of(layer(x, x)))


@every_kind
def test_attention_alone_with_a_causal_mask_equals_the_explicit_mask(make):
    layer, x = make(), _x()
    explicit = layer(x, x, attention_mask=np.tril(np.ones((1, T, T), bool)))
    assert_close(layer(x, x, use_causal_mask=True), explicit, atol=1e-5)


@since_keras_3(15)
@every_kind
def test_attention_looks_through_a_sliding_window(make):
    layer, x = make(sliding_window=3), _x()
    _, scores = layer(x, x, use_causal_mask=True, return_attention_scores=True)
    i, j = np.indices((T, T))
    inside = (j <= i) & (i - j < 3)
    assert (numpy_of(scores)[..., inside] > 0).all()
    assert (numpy_of(scores)[..., ~inside] == 0).all()


@since_keras_3(15)
@every_kind
def test_attention_returns_scores_of_the_promised_shape(make):
    layer, inputs = make(), keras.Input((10, 8))
    symbolic = layer(inputs, inputs, return_attention_scores=True)
    y, scores = layer(_x(3, 10, 8), _x(3, 10, 8), return_attention_scores=True)
    assert [x.shape[1:] for x in symbolic] == [x.shape[1:] for x in (y, scores)]
    assert y.shape == (3, 10, 8) and scores.shape[2:] == (10, 10)
    np.testing.assert_allclose(numpy_of(scores).sum(-1), 1.0, rtol=1e-4)


SHAPES = {
    "no_key": ((4, 8), (2, 8), None, None),
    "key": ((4, 8), (2, 8), (2, 3), None),
    "another_output": ((4, 8), (2, 8), (2, 3), (1, 5)),
    "high": ((4, 2, 3, 8), (1, 1, 5, 8), (1, 1, 5, 2), None),
    "high_another_output": ((4, 2, 3, 8), (1, 1, 5, 8), (1, 1, 5, 2), (3, 2)),
    "other_channels": ((4, 2, 3, 8), (4, 2, 3, 7), (4, 2, 3, 8), None),
    "number": ((4, 8), (2, 8), None, 6),
}


@pytest.mark.quick("key", "high_another_output", "other_channels", "number")
@pytest.mark.parametrize(("query", "value", "key", "output_shape"), SHAPES.values(), ids=SHAPES)
def test_attention_computes_the_shape_of_its_output(query, value, key, output_shape):
    layer = SlotMultiHeadAttention(2, 2, value_dim=2, output_shape=output_shape)
    shapes = [(7, *query), (7, *value), None if key is None else (7, *key)]
    y = layer(*(None if shape is None else np.ones(shape, "float32") for shape in shapes))
    assert tuple(layer.compute_output_shape(*shapes)) == tuple(y.shape)


@pytest.mark.parametrize(
    ("query", "value", "key"), [((4, 8), (2, 8), (1, 7)), ((4, 2, 3, 8), (1, 1, 5, 8), (1, 15, 5, 2))]
)
def test_attention_refuses_shapes_that_do_not_fit(query, value, key):
    layer = SlotMultiHeadAttention(4, 2, value_dim=2)
    shapes = [(2, *shape) for shape in (query, value, key)]
    with pytest.raises(ValueError, match="must be equal"):
        layer.compute_output_shape(*shapes)
    with pytest.raises(ValueError, match="must be equal"):
        layer(*(np.ones(shape, "float32") for shape in shapes))


def test_attention_takes_negative_axes():
    positive, negative = (SlotMultiHeadAttention(2, 4, attention_axes=x, seed=1) for x in (2, -2))
    x = _x(2, 3, 8, 4)
    one = positive(x, x, return_attention_scores=True)
    assert_close(one, negative(x, x, return_attention_scores=True))


@modes
def test_attention_by_hand(mode):
    # One head that passes everything on: attention of unit vectors over their own values.
    def identity(shape, dtype=None):
        kernel = np.eye(2).reshape(shape[:-1])
        return ops.convert_to_tensor(np.stack([kernel, 1 - kernel], -1), dtype)

    def first(shape, dtype=None):
        return ops.convert_to_tensor(np.broadcast_to([1.0, 0.0], shape), dtype)

    layer = SlotMultiHeadAttention(
        1, 2, use_bias=False, num_values=2, score_mode=mode, bank_initializer=identity, score_initializer=first
    )
    x, value = np.eye(2, dtype="float32")[None], np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
    y, scores = layer(x, value, x, return_attention_scores=True)
    near = np.exp(1 / np.sqrt(2)) / (1 + np.exp(1 / np.sqrt(2)))
    weights = np.array([[near, 1 - near], [1 - near, near]])
    assert_close(scores, weights[None, None], rtol=1e-4)
    assert_close(y, (weights @ value[0])[None], rtol=1e-4)
