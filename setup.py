"""The package metadata; `pyproject.toml` holds tool settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read(*parts):
    """The text of a file of the project."""
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def read_version():
    """The version, without importing the package (that would need Keras)."""
    return re.fullmatch(r'__version__ = "(\S+)"\n', read("keras_slots", "version.py")).group(1)


# Every lower bound was tried: all of them installed together (with NumPy 2.1 on Python 3.13, the first
# for it), on Python 3.10 to 3.13, on TensorFlow and JAX. What stands in the way of older ones:
# - keras: no fixes for crafted model files. Python 3.10 has no Keras 3.14; there the 3.12 line
#   receives the fixes. The upper bound is the next minor version, which nobody has tried: slot layers
#   compute what the Keras layers of these versions compute (tests/interop/test_keras_contract.py).
# - tensorflow: no release for Python 3.13 before 2.20, and none whose protobuf is new enough for
#   tensorflow-datasets. Python 3.14 has 2.22.0rc0 alone, see docs/support.md.
# - numpy: that TensorFlow refuses it.
INSTALL_REQUIRES = [
    'keras>=3.12.4,<3.16; python_version < "3.11"',
    'keras>=3.14,<3.16; python_version >= "3.11"',
    "tensorflow>=2.20",
    "numpy>=1.26",
    "rich>=13.6",  # Keras brings it, cyclopts needs 13.6; tried on Python 3.11 alone.
]

PLOTS = ["matplotlib>=3.8.4"]
TENSORBOARD = ["tensorboard>=2.20"]  # TensorFlow 2.21 no longer brings it.
TUNER = ["keras-tuner>=1.4.7", *TENSORBOARD]  # It imports tensorboard without declaring it.
JAX = ["jax>=0.6"]
TORCH = ["torch>=2.13"]  # The oldest that was tried. Not in the extra `test`: a build for GPUs takes several GB.
# These lower bounds have wheels for Python 3.10 to 3.13, and were tried together on 3.11 alone.
LITERT = ["ai-edge-litert>=2.1"]  # The interpreter; TensorFlow writes the files.
# Writing needs the first two, running the last.
ONNX = ["onnx>=1.19", "tf2onnx>=1.17", "onnxruntime>=1.23"]
EXAMPLES = [
    "tensorflow-datasets>=4.9.8",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without declaring it.
    "scikit-learn>=1.5",
    # Command lines and tables of examples/paper. Their lower bounds were tried on Python 3.11 alone.
    "cyclopts>=4.16",
    "pandas>=2.2.3",
    *PLOTS,
]
DOCS = [
    "mkdocs>=1.6.1,<2",
    "mkdocs-material>=9.8,<10",
    "mkdocstrings-python>=2.0.11",
    "ruff>=0.17,<0.18",  # It breaks long signatures into lines.
]
MUTATION = ["cosmic-ray>=8.7"]  # For tests/soak/mutants.py alone.
TEST = [
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.17,<0.18",  # One minor version, so that everybody's formatter agrees.
    "mypy>=1.18",
    "build>=1.2",
]

setup(
    name="keras-slots",
    version=read_version(),
    description="Slot machine networks for Keras: select among fixed random weights, train none",
    # On a package page, links into the repository would lead nowhere.
    long_description=re.sub(r"!?\[([^]]+)\]\((?!http)[^)]+\)", r"\1", read("README.md")),
    long_description_content_type="text/markdown",
    author="The keras_slots authors",
    project_urls={"Paper": "https://arxiv.org/abs/2101.06475"},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["keras", "tensorflow", "jax", "pytorch", "slot machines", "random weights", "deep learning"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["keras_slots", "keras_slots.*"]),
    package_data={
        "keras_slots": ["py.typed"],
        "keras_slots.c_export": ["code.c"],
        "keras_slots.slots_file": ["dictionary.txt"],
        "keras_slots.zoo": ["*.json", "*.slots"],
    },
    include_package_data=False,
    python_requires=">=3.10,<3.15",
    install_requires=INSTALL_REQUIRES,
    extras_require={
        "docs": DOCS,
        "examples": EXAMPLES,
        "gpu": ["tensorflow[and-cuda]>=2.20"],
        "jax": JAX,
        "litert": LITERT,
        "mutation": MUTATION,
        "onnx": ONNX,
        "plots": PLOTS,
        "test": sorted({*TEST, *EXAMPLES, *TUNER, *JAX, *LITERT, *ONNX}),
        "torch": TORCH,
        "tuner": TUNER,
    },
    entry_points={"console_scripts": ["keras-slots = keras_slots.__main__:main"]},
    # A path, not an import hook: type checkers find the package after `pip install -e`.
    options={"editable_wheel": {"mode": "compat"}},
    zip_safe=False,
)
