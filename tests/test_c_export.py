"""`export_selected(format="c")`: the compiled code against Keras, and in integers against `c_reference.py`."""

import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_slots
from c_reference import IntegerNetwork, to_bytes
from comparisons import numpy_of
from keras_slots import StratifiedUniform, ValueBank, export_selected
from slots_reference import SANITIZERS, compile_program, run_program

RUN = Path(__file__).with_name("c_export_run.c")
IMAGE = (9, 8, 4)


def slots(**arguments):
    """Arguments of slot layers whose weights are integers of eight bits."""
    bank = {} if "sharing" in arguments else {"bank_initializer": StratifiedUniform(1.5, bits=8)}
    return {"num_values": 4, "score_mode": "nearest", "seed": 7, **bank, **arguments}


def conv(filters=6, size=3, **arguments):
    return keras_slots.SlotConv2D(filters, size, **slots(**arguments))


def dense(units=5, **arguments):
    return keras_slots.SlotDense(units, **slots(**arguments))


def residual(x):
    y = conv(4, padding="same", activation="relu")(x)
    return layers.ReLU()(x + conv(4, padding="same")(y))


def branches(x):
    """One output that three layers use, of which two are waiting while others compute."""
    x = conv(4, padding="same")(x)
    first = conv(4, padding="same", activation="relu")(x)
    second = conv(4, padding="same")(conv(8, padding="same", activation="relu")(x))
    return layers.Add()([x, first, second])


def nested(x):
    inner = keras.Sequential([keras.Input(IMAGE), conv(3, name="conv"), layers.MaxPooling2D(name="pool")])
    return layers.Flatten()(inner(x))


def nested_twice(x):
    """A model that is called twice, on tensors that other layers use too."""
    channels = x.shape[-1]
    same = keras_slots.SlotConv2D(channels, 3, padding="same", name="same", **slots())
    inner = keras.Sequential([keras.Input(x.shape[1:]), layers.ReLU(), same])
    y = inner(x)
    return layers.Add()([x, y, inner(y)])


#: Name -> the shape of the input, and a layer, layers, or a function that makes the network.
NETWORKS = {
    **{f"dense K={k}": ((20,), dense(num_values=k)) for k in (1, 2, 3, 4, 5, 8, 16, 100)},
    **{f"conv K={k}": (IMAGE, conv(num_values=k)) for k in (2, 3, 5, 16)},
    "dense per position": (IMAGE, dense()),
    "dense relu": ((20,), dense(activation="relu", bias_initializer="ones"), dense()),
    "dense without bias": ((20,), dense(40, use_bias=False), layers.ReLU(max_value=1.5), dense(use_bias=False)),
    "dense one output": ((20,), dense(1, activation="sigmoid")),
    "dense softmax": ((20,), dense(activation="softmax")),
    "dense norm": ((20,), dense(), layers.BatchNormalization()),
    "conv same": (IMAGE, conv(padding="same")),
    "conv strides": (IMAGE, conv(strides=(2, 3), padding="same")),
    "conv strides valid": (IMAGE, conv(size=(3, 2), strides=2)),
    "conv dilation": (IMAGE, conv(dilation_rate=(2, 1), padding="same")),
    "conv groups": (IMAGE, conv(groups=2)),
    "conv norm relu": (IMAGE, conv(use_bias=False), layers.BatchNormalization(), layers.ReLU(), dense()),
    "conv relu norm": (IMAGE, conv(activation="relu"), layers.BatchNormalization(), conv()),
    "conv relu6": (IMAGE, conv(activation="relu6"), layers.Activation("relu"), conv()),
    "conv pool": (IMAGE, conv(), layers.MaxPooling2D(), layers.Activation("relu"), conv(2, 1)),
    "conv pool 3 2": (IMAGE, conv(padding="same"), layers.MaxPooling2D((3, 2), padding="same"), dense()),
    "conv overlapping pool": (IMAGE, conv(), layers.MaxPooling2D(3, strides=2), layers.ReLU(), conv(2, 2)),
    "conv global pool": (IMAGE, conv(), layers.GlobalMaxPooling2D(), dense()),
    "pool same": (IMAGE, layers.MaxPooling2D(2, padding="same"), conv(2, 3)),
    "average pool": (IMAGE, layers.AveragePooling2D(2, strides=1), layers.BatchNormalization(), conv(2, 3)),
    "average pool same": (IMAGE, conv(), layers.AveragePooling2D((2, 4), padding="same"), dense()),
    "average pool global": (IMAGE, conv(activation="relu"), layers.GlobalAveragePooling2D(), dense()),
    "conv ends": (IMAGE, conv(3), layers.GlobalAveragePooling2D(), layers.Softmax()),
    "rescaling": (IMAGE, layers.Rescaling(0.5, -0.1), conv(2)),
    "depthwise": (IMAGE, keras_slots.SlotDepthwiseConv2D(3, **slots())),
    "depthwise multiplier": (
        IMAGE,
        keras_slots.SlotDepthwiseConv2D(3, strides=2, depth_multiplier=3, padding="same", **slots(num_values=3)),
        layers.BatchNormalization(),
    ),
    "separable": (IMAGE, keras_slots.SlotSeparableConv2D(5, 3, **slots(activation="relu")), dense()),
    "separable strides": (
        IMAGE,
        keras_slots.SlotSeparableConv2D(5, 3, strides=2, depth_multiplier=2, padding="same", **slots()),
    ),
    "conv1d": ((12, 3), keras_slots.SlotConv1D(4, 3, strides=2, padding="causal", **slots())),
    "sequence": (
        (20, 3),
        keras_slots.SlotConv1D(4, 3, padding="same", dilation_rate=2, **slots(activation="relu")),
        layers.MaxPooling1D(),
        keras_slots.SlotDepthwiseConv1D(3, depth_multiplier=2, **slots()),
        layers.AveragePooling1D(2),
        keras_slots.SlotSeparableConv1D(4, 3, **slots()),
        layers.GlobalMaxPooling1D(),
        dense(),
    ),
    "conv as sequence": (
        IMAGE,
        conv(4, padding="same"),
        layers.Reshape((72, 4)),
        layers.GlobalMaxPooling1D(),
        dense(),
    ),
    "conv turned": (
        IMAGE,
        conv(4, padding="same"),
        layers.Reshape((8, 9, 4)),
        layers.MaxPooling2D((1, 3)),
        dense(),
    ),
    "reshape dropout": ((24,), layers.Reshape((2, 3, 4)), layers.Dropout(0.5), conv(2, 2), layers.Flatten()),
    "residual": (IMAGE, residual, layers.GlobalAveragePooling2D(), dense()),
    "branches": (IMAGE, branches, layers.Flatten(), dense()),
    "nested": (IMAGE, nested, dense()),
    "nested inside": (IMAGE, layers.Rescaling(0.5), nested_twice, dense()),
    "nested last": ((20,), dense(9), keras.Sequential([keras.Input((9,)), dense()])),
    "layer": (IMAGE, conv(sharing="layer"), dense(sharing="layer", num_values=3)),
    "value bank": ((20,), dense(sharing=ValueBank(5, bound=0.4, seed=2), num_values=5)),
    "both": (IMAGE, conv(sharing="layer"), dense()),
}
#: Those of a plain run.
QUICK = pytest.mark.quick(
    *(
        "dense K=3",
        "dense K=16",
        "dense norm",
        "dense without bias",
        "conv K=5",
        "conv norm relu",
        "conv dilation",
    ),
    *("conv pool 3 2", "average pool same", "conv ends", "depthwise multiplier", "separable strides", "sequence"),
    *("residual", "branches", "both", "conv as sequence", "conv turned", "nested inside", "nested last"),
)
#: Where Keras pads a pooling, it computes another average on PyTorch.
PADDED = [pytest.mark.tensorflow, pytest.mark.jax]
every_network = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=PADDED if x == "average pool same" else ()) for x in NETWORKS]
)


def network(name):
    """The model of that name, with biases and normalizations that are not trivial."""
    shape, *parts = NETWORKS[name]
    x = inputs = keras.Input(shape)
    for part in parts:
        if isinstance(part, layers.Layer):
            part = part.from_config(part.get_config())
            if isinstance(part, keras_slots.SlotDense) and len(x.shape) > 2 and len(parts) > 1:
                x = layers.Flatten()(x)
        x = part(x)
    model = keras.Model(inputs, x)
    random = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(size=weight.shape) * 0.3)
        elif kind in ("gamma", "moving_variance"):
            signs = random.choice([-1, 1], weight.shape) if kind == "gamma" else 1
            weight.assign(signs * random.uniform(0.5, 1.5, weight.shape))
    return model, random.normal(size=(24, *shape)).astype("float32")


def run_c(folder, header, x, outputs, *flags):
    """The classes and the outputs of the compiled header."""
    program = compile_program(folder, RUN, "-I", header.parent, *flags)
    (folder / "in").write_bytes(np.ascontiguousarray(x).tobytes())
    done = run_program(program, folder / "in", folder / "out")
    assert (done.returncode, done.stderr) == (0, "")
    kind = "f4" if x.dtype == np.float32 else "i4"
    rows = np.fromfile(folder / "out", np.dtype([("number", "i4"), ("output", kind, (outputs,))]))
    assert len(rows) == len(x)
    return rows["number"], rows["output"]


def logits_of(model, x):
    """The outputs before a softmax or sigmoid at the end."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    if name in ("softmax", "sigmoid"):
        last.activation = keras.activations.linear
    if isinstance(last, layers.Softmax):
        model = keras.Model(model.input, last.input)
    return numpy_of(model(x, training=False)).reshape(len(x), -1)


@QUICK
@every_network
def test_export_selected_in_c_computes_what_keras_computes(tmp_path, name):
    model, x = network(name)
    header = export_selected(model, tmp_path / "net.h", format="c")
    expected = logits_of(model, x)
    number, output = run_c(tmp_path, header, x, expected.shape[1], *SANITIZERS)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    several = output.shape[1] > 1
    np.testing.assert_array_equal(number, output.argmax(axis=1) if several else output[:, 0] > 0)


@QUICK
@every_network
def test_export_selected_in_c_with_integers_is_the_reference_bit_for_bit_and_close_to_keras(tmp_path, name):
    model, x = network(name)
    header = export_selected(model, tmp_path / "net.h", format="c", calibration_data=x)
    reference = IntegerNetwork(model, x)
    given = to_bytes(x, reference.integers.input)
    expected = reference.run(given)
    number, output = run_c(tmp_path, header, given.astype("uint8"), expected.shape[1], *SANITIZERS)
    np.testing.assert_array_equal(output, expected)
    several = output.shape[1] > 1
    np.testing.assert_array_equal(number, output.argmax(axis=1) if several else output[:, 0] > 0)
    (scale,) = re.findall(r"#define NET_OUTPUT_SCALE (.*)f", header.read_text())
    floats = logits_of(model, x)
    error = np.abs(output * float(scale) - floats)
    assert error.max() < 0.06 * np.ptp(floats) and error.mean() < 0.015 * np.ptp(floats)


def exported(tmp_path, name, integers):
    model, x = network(name)
    data = x if integers else None
    return export_selected(model, tmp_path / "net.h", format="c", calibration_data=data)


def symbols(tmp_path, header, *flags):
    """The symbols of the header, compiled on its own: kind and size by name."""
    (tmp_path / "use.c").write_text(
        '#include "net.h"\n'
        "#ifdef NET_INPUT_SCALE\ntypedef int32_t output_value;\n#else\ntypedef float output_value;\n#endif\n"
        "int use(const net_value *input, output_value *output);\n"
        "int use(const net_value *input, output_value *output) { return net_predict(input, output); }\n"
    )
    compile_program(tmp_path, tmp_path / "use.c", *flags, "-c")
    listed = subprocess.run(["nm", "-S", tmp_path / "use"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    return {line[-1]: (line[-2], int(line[1], 16) if len(line) > 3 else 0) for line in lines}


@pytest.mark.parametrize("integers", [False, True], ids=["floats", "integers"])
@pytest.mark.parametrize(
    "name", ["residual", "conv norm relu", "both", "average pool same", "conv overlapping pool", "dense relu"]
)
def test_export_selected_in_c_takes_the_memory_that_its_comment_says(tmp_path, name, integers):
    header = exported(tmp_path, name, integers)
    found = symbols(tmp_path, header, "-O0", "-m32", "-ffreestanding", "-fno-pic", "-fno-stack-protector")
    ram = sum(size for kind, size in found.values() if kind in "bBdD")
    text = header.read_text()
    assert ram == int(re.search(r"RAM: ([\d,]+) bytes", text)[1].replace(",", ""))
    flash = sum(size for kind, size in found.values() if kind in "rR")
    assert flash == int(re.search(r"Flash: ([\d,]+) bytes", text)[1].replace(",", ""))


@pytest.mark.parametrize("integers", [False, True], ids=["floats", "integers"])
@pytest.mark.parametrize("name", ["residual", "sequence", "both", "average pool same"])
def test_export_selected_in_c_needs_no_library_and_no_double(tmp_path, name, integers):
    header = exported(tmp_path, name, integers)
    found = symbols(tmp_path, header, "-O1", "-ffreestanding", "-fno-stack-protector")
    assert {x for x, (kind, _) in found.items() if kind == "U"} <= {"_GLOBAL_OFFSET_TABLE_"}
    assert re.findall(r"#include (.*)", header.read_text()) == ["<stdint.h>"]
    assert not re.search(r"\bdouble\b", re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL))


def test_export_selected_in_c_has_two_networks_in_one_program(tmp_path):
    for name in ("one", "two"):
        model, x = network("dense K=3" if name == "one" else "residual")
        export_selected(model, tmp_path / f"{name}.h", format="c", calibration_data=x if name == "two" else None)
    (tmp_path / "both.c").write_text(
        '#include "one.h"\n#include "two.h"\n'
        "static float in1[ONE_INPUTS], out1[ONE_OUTPUTS];\n"
        "static uint8_t in2[TWO_INPUTS];\nstatic int32_t out2[TWO_OUTPUTS];\n"
        "int main(void)\n{\n"
        "    return one_predict(in1, out1) < 0 || two_predict(in2, out2) < 0 || two_byte(9e9f) < 255;\n}\n"
    )
    assert run_program(compile_program(tmp_path, tmp_path / "both.c", *SANITIZERS)).returncode == 0


def unsupported(x):
    x = layers.Dense(20, name="plain")(x)
    x = dense(20, activation="gelu", name="gelu")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return layers.UnitNormalization(name="unit")(x)


def functional(shape, *parts):
    x = inputs = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [dense(2)(inputs), dense(3)(inputs)])


class SubclassedModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5)

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = SubclassedModel()
    model(np.ones((1, 20), "float32"))
    return keras_slots.slotify(model, **slots())


def one_dense(**arguments):
    return functional((20,), dense(**arguments))


#: What is refused -> a function that makes the model, and what the error says.
REFUSED = {
    "layers": (
        lambda: functional((20,), dense(name="good"), unsupported),
        ["'plain' (Dense)", "'gelu' (Dense)", "'norm' (LayerNormalization)", "'unit' (Unit", "slotify"],
    ),
    "recurrent": (lambda: functional((5, 3), keras_slots.SlotLSTM(4, name="memory")), ["'memory' (LSTM)"]),
    "drawn": (
        lambda: functional((20,), keras_slots.SlotDense(3, name="drawn")),
        ["'drawn' (Dense)", "StratifiedUniform()", "sharing='layer'"],
    ),
    "dtype": (lambda: one_dense(dtype="bfloat16", name="half"), ["'half'", "bfloat16", "float32"]),
    "length": (lambda: functional((None, 3), keras_slots.SlotConv1D(2, 3, **slots())), ["shape", "None"]),
    "softmax": (
        lambda: functional((20,), dense(activation="softmax", name="inside"), dense()),
        ["'inside'", "softmax"],
    ),
    "softmax over rows": (
        lambda: functional((4, 5), dense(3), layers.Softmax(axis=1, name="rows")),
        ["'rows'", "`axis`"],
    ),
    "leaky relu": (
        lambda: functional((20,), dense(), layers.ReLU(negative_slope=0.1, name="leaky")),
        ["'leaky'", "negative_slope"],
    ),
    "subclassed": (subclassed, ["a graph", "SubclassedModel"]),
    "outputs": (two_outputs, ["one input and one output"]),
    "axes": (
        lambda: functional((3, 4, 5, 2), keras_slots.SlotConv3D(2, 2, name="cube", **slots())),
        ["'cube' (Conv3D)"],
    ),
    "plus one": (lambda: functional((20,), dense(), lambda x: x + 1.0), ["(Add)", "no such layer"]),
    "plus array": (
        lambda: functional((20,), dense(), lambda x: keras.ops.add(x, np.ones(5, "float32"))),
        ["(Add)"],
    ),
    "minus": (lambda: functional((20,), dense(), lambda x: x - 1.0), ["(Subtract)"]),
    "wide": (lambda: functional((70_000,), dense(1, name="wide")), ["'wide'", "65,535"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_export_selected_in_c_names_what_it_cannot_express_and_writes_nothing(tmp_path, what):
    make, words = REFUSED[what]
    with pytest.raises(ValueError, match=r"`model` must have") as caught:
        export_selected(make(), tmp_path / "net.h", format="c")
    assert [word for word in words if word not in str(caught.value)] == []
    assert "'good'" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_export_selected_in_c_leaves_out_a_softmax_at_the_end_of_a_nested_model(tmp_path):
    headers = set()
    for activation in (None, "softmax"):
        last = dense(activation=activation, name="last")
        model = functional((20,), dense(9, name="first"), keras.Sequential([keras.Input((9,)), last]))
        headers.add(export_selected(model, tmp_path / "net.h", format="c", overwrite=True).read_text())
    assert len(headers) == 1


def test_export_selected_in_c_with_integers_refuses_values_finer_than_eight_bits(tmp_path):
    fine = keras_slots.SlotDense(3, score_mode="nearest", name="fine")
    model = functional((20,), dense(20), fine)
    with pytest.raises(ValueError, match=r"\['fine'\].*bits=8"):
        export_selected(model, tmp_path / "net.h", format="c", calibration_data=np.ones((2, 20)))
    assert list(tmp_path.iterdir()) == []
    export_selected(model, tmp_path / "net.h", format="c")


@pytest.mark.parametrize("data", [np.ones((2, 3)), np.ones((0, 20)), np.full((2, 20), np.nan), np.float32(1)])
def test_export_selected_in_c_refuses_calibration_data_that_are_no_inputs(tmp_path, data):
    with pytest.raises(ValueError, match="calibration_data"):
        export_selected(functional((20,), dense()), tmp_path / "net.h", format="c", calibration_data=data)


def test_export_selected_in_c_refuses_sums_of_more_than_30_bits(tmp_path):
    model = functional((65_000,), dense(1, kernel_initializer="ones", name="wide"))
    with pytest.raises(ValueError, match=r"'wide'.*too many connections"):
        export_selected(model, tmp_path / "net.h", format="c", calibration_data=np.ones((1, 65_000)))


@pytest.mark.parametrize("name", ["1net.h", "my-net.h", "net.c"])
def test_export_selected_in_c_refuses_a_name_that_c_cannot_have(tmp_path, name):
    with pytest.raises(ValueError, match="`path` must"):
        export_selected(functional((20,), dense()), tmp_path / name, format="c")


def test_export_selected_refuses_calibration_data_for_other_formats(tmp_path):
    with pytest.raises(ValueError, match="`calibration_data` must be None"):
        export_selected(functional((20,), dense()), tmp_path / "net", calibration_data=np.ones((1, 20)))


def test_export_selected_in_c_keeps_an_earlier_file_unless_told_to_replace_it(tmp_path):
    model = functional((20,), dense())
    path = export_selected(model, tmp_path / "net.h", format="c")
    before = path.read_text()
    with pytest.raises(FileExistsError):
        export_selected(model, path, format="c")
    assert export_selected(model, path, format="c", overwrite=True).read_text() == before
