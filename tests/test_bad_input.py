"""Wrong arguments are answered early, by an error that names them, what was expected and what came."""

import keras
import numpy as np
import pytest

from keras_slots import (
    SlotConv2D,
    SlotDense,
    SlotDepthwiseConv2D,
    UniformScores,
    ValueBank,
    export_selected,
    slotify,
)

NUM_VALUES = "`num_values` must be a positive integer"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_values": 0}, f"{NUM_VALUES}.*Received: num_values=0"),
        ({"num_values": -3}, f"{NUM_VALUES}.*Received: num_values=-3"),
        ({"num_values": 2.0}, f"{NUM_VALUES}.*Received: num_values=2.0"),
        ({"num_values": "8"}, f"{NUM_VALUES}.*Received: num_values='8'"),
        ({"num_values": True}, f"{NUM_VALUES}.*Received: num_values=True"),
        ({"num_values": None}, f"{NUM_VALUES}.*Received: num_values=None"),
        (
            {"selection": "best"},
            '`selection` must be one of "greedy", "probabilistic", or a .*\'best\'',
        ),
        ({"score_mode": "lever"}, "`score_mode` must be .*\"per_value\".*score_mode='lever'"),
        ({"sharing": "all"}, '`sharing` must be "connection", "layer" or a .*ValueBank.*\'all\''),
        (
            {"sharing": ValueBank(4, bound=1.0, seed=1)},
            "`sharing` holds 4 values, but the layer expects `num_values`=8.*Pass num_values=4",
        ),
        (
            {"sharing": ValueBank(8, bound=1.0, seed=1), "bank_initializer": "he_normal"},
            "`bank_initializer` must be None when `sharing` is a `ValueBank`.*he_normal",
        ),
        ({"bank_initializer": "glorot"}, "`bank_initializer` must be .*'glorot'"),
        ({"score_initializer": "glorot"}, "`score_initializer` must be .*'glorot'"),
        ({"seed": -1}, "`seed` must be .*-1"),
        ({"seed": 1.5}, "`seed` must be .*1.5"),
        ({"kernel_constraint": "non_neg"}, "`kernel_constraint` must be None in a slot layer"),
        ({"lora_rank": 2}, "does not support LoRA. Received: rank=2.*materialize"),
    ],
)
def test_slot_dense_names_a_wrong_argument(arguments, text):
    with pytest.raises(ValueError, match=text):
        SlotDense(4, **arguments)


def test_uniform_scores_names_a_wrong_scale():
    with pytest.raises(ValueError, match="`scale` must be .*-1"):
        UniformScores(-1.0)


def test_slot_depthwise_conv2d_names_its_constraint_as_keras_calls_it():
    with pytest.raises(ValueError, match="`depthwise_constraint` must be None in a slot layer"):
        SlotDepthwiseConv2D(3, depthwise_constraint="non_neg")


def test_slot_dense_refuses_an_unknown_argument_as_keras_does():
    with pytest.raises((TypeError, ValueError), match="num_value"):
        SlotDense(4, num_value=8)


@pytest.mark.parametrize(
    ("layer", "built", "given", "text"),
    [
        (lambda: SlotDense(4), (2, 3), (2, 5), "expected axis -1 of input shape to have value 3"),
        (lambda: SlotDense(4), (2, 3), (3,), "expected min_ndim=2, found ndim=1"),
        (lambda: SlotConv2D(4, 1), (2, 5, 5, 3), (2, 5, 5, 2), "axis -1 of input shape to have"),
        (lambda: SlotConv2D(4, 1), (2, 5, 5, 3), (2, 5, 3), "expected min_ndim=4, found ndim=3"),
    ],
)
def test_call_refuses_an_input_of_the_wrong_rank_or_channels_as_keras_does(
    layer, built, given, text
):
    layer = layer()
    layer.build(built)
    with pytest.raises(ValueError, match=text):
        layer(np.ones(given, "float32"))


def test_call_refuses_unknown_channels():
    with pytest.raises(ValueError, match="needs to know the number of input channels|defined"):
        SlotDense(4)(keras.Input((None,)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda layer: layer.enable_lora(4), "does not support LoRA. Received: rank=4"),
        (lambda layer: layer.quantize("int8"), "cannot be quantized. Received: mode='int8'"),
    ],
)
def test_enable_lora_and_quantize_are_refused_with_the_way_out(call, text):
    layer = SlotDense(4)
    layer.build((None, 3))
    with pytest.raises(ValueError, match=f"{text}.*`keras_slots.materialize"):
        call(layer)


def test_export_selected_refuses_an_unknown_format(tmp_path):
    model = keras.Sequential([keras.Input((3,)), SlotDense(2)])
    with pytest.raises(ValueError, match="`format` must be .*Received: format='onnx2'"):
        export_selected(model, tmp_path / "out", format="onnx2")
    assert not list(tmp_path.iterdir())


def test_slotify_names_a_wrong_argument():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="Layer 'head' cannot become a slot layer. `selection`"):
        slotify(model, selection="best")
