"""What Keras' layers refuse, slot layers refuse too; and what only slot layers refuse, listed by name."""

import itertools

import keras
import pytest

from keras_slots.layers.arguments import parameters_of
from layer_table import LAYERS, MINOR, PREFIXES, SLOT_CLASSES, L, call, layer_input, plain_layer, slot_layer


def skip_what_older_versions_of_keras_take(plain):
    """Each version refuses more; the newest must refuse all that is listed here."""
    if MINOR < 15:
        try:
            plain()
        except ValueError:
            return
        pytest.skip("this version of Keras takes it")


@pytest.mark.parametrize(
    ("kind", "arguments", "text"),
    [
        *(("Dense", {"units": x}, "positive integer") for x in (0, -3, 2.5, None, "64")),
        ("Conv1D", {"filters": 0, "kernel_size": 1}, "filters=0"),
        ("Conv2D", {"filters": 2, "kernel_size": (1, 0)}, "`kernel_size` argument must be"),
        ("Conv2D", {"filters": 2, "kernel_size": 2, "strides": (1, 0)}, "`strides` argument must"),
        ("Conv2D", {"filters": 2, "kernel_size": 2, "strides": 2, "dilation_rate": 2}, "strides"),
        ("Conv2D", {"filters": 5, "kernel_size": 2, "groups": 0}, "groups=0"),
        ("Conv2D", {"filters": 5, "kernel_size": 2, "groups": 2}, "groups=2, filters=5"),
        ("Conv1DTranspose", {"filters": 0, "kernel_size": 1}, "filters=0"),
        (
            "Conv1DTranspose",
            {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 2},
            "`output_padding` must be strictly less than `strides`",
        ),
        ("Conv3DTranspose", {"filters": 2, "kernel_size": 3, "output_padding": 1}, "output_padding"),
        ("DepthwiseConv1D", {"kernel_size": 1, "depth_multiplier": 0}, "depth_multiplier=0"),
        ("SeparableConv1D", {"filters": 0, "kernel_size": 1}, "filters=0"),
        ("SeparableConv2D", {"filters": 2, "kernel_size": (1, 0)}, "`kernel_size` argument must"),
        ("MultiHeadAttention", {"num_heads": 0, "key_dim": 2}, "argument `num_heads`"),
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 1.5}, "argument `key_dim`"),
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 2, "output_shape": 8.0}, "output_shape"),
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 2, "sliding_window": 0}, "sliding_window"),
        ("GroupQueryAttention", {"head_dim": 2, "num_query_heads": 3, "num_key_value_heads": 2}, "divisible"),
    ],
)
def test_slot_layer_refuses_the_arguments_that_the_keras_layer_refuses(kind, arguments, text):
    plain = getattr(L, kind)
    skip_what_older_versions_of_keras_take(lambda: plain(**arguments))
    for cls in (plain, SLOT_CLASSES[plain]):
        with pytest.raises(ValueError, match=text):
            cls(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        ("Conv2D", {"filters": 6, "kernel_size": 5}, (3, 4, 4, 4)),
        ("Conv1D", {"filters": 1, "kernel_size": 2, "dilation_rate": 10}, (2, 10, 3)),
        ("DepthwiseConv1D", {"kernel_size": 11, "strides": 5}, (4, 10, 3)),
        ("SeparableConv1D", {"filters": 6, "kernel_size": 11, "strides": 5}, (4, 10, 12)),
        ("SeparableConv2D", {"filters": 8, "kernel_size": 5, "strides": 2}, (2, 4, 4, 3)),
    ],
)
def test_slot_layer_refuses_inputs_of_which_nothing_would_be_left(kind, arguments, shape):
    plain = getattr(L, kind)
    skip_what_older_versions_of_keras_take(lambda: plain(**arguments)(keras.KerasTensor(shape)))
    layer = SLOT_CLASSES[plain](**arguments)
    with pytest.raises(ValueError, match="would be zero or negative|negative dimension|Negative"):
        layer(keras.KerasTensor(shape))


def test_transposed_convolution_takes_inputs_of_unknown_size():
    for kernel_size, strides, padding in itertools.product((1, 3), (1, 2), ("same", "valid")):
        layer = SLOT_CLASSES[L.Conv2DTranspose](2, kernel_size, strides=strides, padding=padding)
        assert layer(keras.Input((None, None, 3))).shape == (None, None, None, 2)


def test_dense_refuses_another_number_of_channels_than_it_was_built_with():
    layer = SLOT_CLASSES[L.Dense](2)
    layer(keras.KerasTensor((1, 2)))
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(keras.KerasTensor((1, 3)))


# What a slot layer refuses, because its kernel is selected and not trained.

#: The layers that can be quantized or given LoRA weights in Keras itself.
CAN_QUANTIZE = [name for name, (cls, *_) in LAYERS.items() if "quantization_config" in parameters_of(cls)]
CAN_HAVE_LORA = [name for name, (cls, *_) in LAYERS.items() if "lora_rank" in parameters_of(cls)]


@pytest.mark.parametrize(
    ("name", "prefix"), [(name, prefix) for name in LAYERS for prefix in PREFIXES.get(name, ("kernel",))]
)
def test_kernel_constraint_is_refused_and_bias_constraint_taken(name, prefix):
    with pytest.raises(ValueError, match=rf"`{prefix}_constraint` must be None"):
        slot_layer(name, {f"{prefix}_constraint": "non_neg"})
    if "bias_constraint" not in parameters_of(LAYERS[name][0]):
        return
    layer = slot_layer(name, {"bias_constraint": "non_neg"}, seed=1)
    call(layer, layer_input(name))
    biases = [v for v in layer.trainable_variables if v.name == "bias"]
    assert bool(biases) == ("embedding" not in name)
    assert all(isinstance(v.constraint, keras.constraints.NonNeg) for v in biases)


@pytest.mark.parametrize("name", CAN_HAVE_LORA)
def test_lora_is_refused(name):
    with pytest.raises(ValueError, match="does not support LoRA.*materialize"):
        slot_layer(name, {"lora_rank": 2})
    layer = slot_layer(name)
    with pytest.raises(ValueError, match="does not support LoRA.*materialize"):
        layer.enable_lora(2)


@pytest.mark.quick
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("name", LAYERS)
def test_quantization_is_refused_or_not_implemented_as_in_keras(name, mode):
    plain, slot = plain_layer(name), slot_layer(name)
    for layer in (plain, slot):
        call(layer, layer_input(name))
    if name in CAN_QUANTIZE:
        with pytest.raises(ValueError, match="cannot be quantized.*materialize"):
            slot.quantize(mode)
        return
    refusals = []
    for layer in (plain, slot):
        with pytest.raises((ValueError, NotImplementedError)) as caught:
            layer.quantize(mode)
        refusals.append(caught.value)
    assert "materialize" in str(refusals[1]) or type(refusals[1]) is type(refusals[0])
