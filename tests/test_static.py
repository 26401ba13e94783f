"""What help and type checkers show: whole signatures, whole docstrings, and the types of slot arguments."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_slots
from layer_table import SLOT_ARGUMENTS, SLOT_CLASSES

PACKAGE = Path(keras_slots.__file__).parent
CLASSES = sorted(SLOT_CLASSES.values(), key=lambda cls: cls.__name__)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
DEFAULTS = {
    "num_values": 8,
    "selection": "greedy",
    "score_mode": "per_value",
    "bank_initializer": None,
    "score_initializer": None,
    "sharing": "connection",
    "move_regularizer": None,
    "seed": None,
}
#: Arguments of Keras that make no sense for a kernel that is selected: accepted by name only to be refused.
REFUSED = ("lora_rank", "lora_alpha", "quantization_config", "gptq_unpacked_column_size")
#: The layers of Keras that hold kernels, but for `ConvLSTM1D` to `ConvLSTM3D`.
EXPECTED = {
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
    *("MultiHeadAttention", "GroupQueryAttention", "Embedding", "ReversibleEmbedding"),
    *("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell"),
}


def test_there_is_a_slot_layer_for_every_keras_layer_with_kernels():
    assert {cls.__name__ for cls in CLASSES} == {f"Slot{name}" for name in EXPECTED}
    assert {cls.__name__ for cls in CLASSES} <= set(keras_slots.__all__)


def _plain(cls):
    return {slot: plain for plain, slot in SLOT_CLASSES.items()}[cls]


@every_class
def test_signature_has_the_arguments_of_the_keras_layer_and_then_ours(cls):
    plain = list(inspect.signature(_plain(cls)).parameters.values())
    variable = inspect.Parameter.VAR_KEYWORD
    named = [p for p in plain if p.kind is not variable]
    # The attention and recurrent layers of Keras have a seed of their own: one seed governs all.
    both = {p.name for p in named} & set(SLOT_ARGUMENTS)
    assert both <= {"seed"}
    ours = [p for p in inspect.signature(cls).parameters.values() if p.kind is not variable]
    kept = [p.replace(annotation=p.empty) for p in ours if p.name not in SLOT_ARGUMENTS]
    assert kept == [p for p in named if p.name not in both]
    assert [p.name for p in ours[: len(named)]] == [p.name for p in named]
    added = {p.name: p for p in ours if p.name in SLOT_ARGUMENTS}
    own = [name for name in SLOT_ARGUMENTS if name not in both]
    assert [name for name in added if name not in both] == own
    assert set(added) == set(SLOT_ARGUMENTS)
    assert {name: p.default for name, p in added.items()} == DEFAULTS
    assert all(added[name].kind is inspect.Parameter.KEYWORD_ONLY for name in own)


@every_class
def test_docstring_describes_every_argument_once(cls):
    names = [x for x in inspect.signature(cls).parameters if x not in ("kwargs", *REFUSED)]
    for name in names:
        assert cls.__doc__.count(f"\n        {name}: ") == 1, name
    assert not any(name in cls.__doc__ for name in REFUSED)


GOOD = """
import keras
from keras_slots import SlotConv2D, SlotDense, export_selected, materialize, slotify

layer = SlotDense(3, "relu", use_bias=False, num_values=4, score_mode="per_connection", name="a")
conv = SlotConv2D(filters=4, kernel_size=(3, 3), strides=2, seed=7)
plain = materialize(slotify(keras.Sequential([layer]), num_values=4, filters=["a"]))
export_selected(plain, "out")
"""
WRONG = {
    "SlotDense(3, num_values='eight')": "num_values",
    "SlotConv2D(4, 3, selection=0.5)": "selection",
    "SlotConv2D(4, 3, seed='one')": "seed",
    "slotify()": "model",
}
CONFIGURATION = """
[mypy]
[mypy-keras.*,tensorflow.*,jax.*,h5py.*]
follow_imports = skip
ignore_missing_imports = True
"""


@pytest.fixture(scope="module")
def type_errors(tmp_path_factory):
    """Line number -> what mypy says of it, of a file of right and wrong uses."""
    folder = tmp_path_factory.mktemp("types")
    lines = [*GOOD.splitlines(), *WRONG]
    (folder / "use.py").write_text("\n".join(lines))
    (folder / "mypy.ini").write_text(CONFIGURATION)
    arguments = ["--config-file=mypy.ini", f"--cache-dir={folder / 'cache'}", "use.py"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    if not _is_installed(folder, environment):
        environment["MYPYPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    found = [line.split(":", 2) for line in done.stdout.splitlines() if line.startswith("use.py:")]
    said: dict[int, str] = {}
    for _, number, text in found:
        said[int(number)] = said.get(int(number), "") + text
    return said


def _is_installed(folder, environment):
    """Whether this package is the one that an installation has: mypy must find it by itself then."""
    code = "import importlib.util as u; print(u.find_spec('keras_slots').origin)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode == 0 and Path(done.stdout.strip()).parent == PACKAGE


def test_type_checker_accepts_a_correct_use(type_errors):
    count = len(GOOD.splitlines())
    assert {n: text for n, text in type_errors.items() if n <= count} == {}


@pytest.mark.parametrize("use", WRONG)
def test_type_checker_refuses_a_wrong_use(type_errors, use):
    number = len(GOOD.splitlines()) + 1 + list(WRONG).index(use)
    assert WRONG[use] in type_errors.get(number, ""), type_errors


def test_package_has_type_information():
    assert (PACKAGE / "py.typed").exists()
