"""The figures show the numbers that they were given."""

import sys

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SlotDense
from keras_slots.inspect import plots
from small_models import small_model


def dense_model(**arguments):
    layers = [SlotDense(20, seed=1, name="hidden", **arguments), SlotDense(3, seed=2, name="out")]
    return keras.Sequential([keras.Input((64,)), *layers])


@pytest.mark.parametrize("mode", ["per_value", "per_connection"])
def test_plots_selected_values_shows_densities_of_bank_and_kernel(mode):
    model = dense_model(score_mode=mode)
    figure = plots.selected_values(model, "before")
    plots.selected_values(model, "after", color="red", figure=figure)
    hidden = figure.axes[0]
    assert [ax.get_title() for ax in figure.axes] == ["hidden: 64 × 20", "out: 20 × 3"]
    values, edges, _ = hidden.patches[-1].get_data()
    expected, _ = np.histogram(numpy_of(model.layers[0].kernel), edges, density=True)
    np.testing.assert_allclose(values, expected)
    bars = [patch.get_height() for patch in hidden.patches[:40]]
    expected, _ = np.histogram(numpy_of(model.layers[0].bank), edges, density=True)
    np.testing.assert_allclose(bars, expected, rtol=1e-4)
    (legend,) = figure.legends
    assert [x.get_text() for x in legend.get_texts()] == ["available", "before", "after"]


def test_plots_selected_values_refuses_another_network():
    figure = plots.selected_values(dense_model())
    with pytest.raises(ValueError, match=r"`figure` must be a figure of the kernels.*'conv'.*'hidden'"):
        plots.selected_values(small_model(), figure=figure)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must have slot layers"):
        plots.selected_values(plain)


def test_plots_first_layer_shows_the_units_with_the_largest_values():
    models = {"random": dense_model(), "selected": dense_model(score_mode="per_connection")}
    figure = plots.first_layer(models, (8, 8), units=3)
    images = [ax.images[0].get_array() for ax in figure.axes]
    kernels = [numpy_of(model.layers[0].kernel) for model in models.values()]
    order = np.argsort(-np.abs(kernels[1]).sum(0))[:3]
    for row, kernel in enumerate(kernels):
        mean, *units = images[4 * row : 4 * row + 4]
        np.testing.assert_allclose(mean, np.abs(kernel).mean(1).reshape(8, 8), rtol=1e-6)
        for image, unit in zip(units, order, strict=True):
            np.testing.assert_array_equal(image, kernel[:, unit].reshape(8, 8))
    assert figure.axes[1].get_title() == f"unit {order[0]}"
    with pytest.raises(ValueError, match=r"`image_shape` must have as many pixels.*\(64, 20\)"):
        plots.first_layer(models, (7, 7))


def test_plots_name_the_extra_of_a_missing_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'^`keras_slots.inspect.plots` needs .*"keras-slots\[plots\]"$'):
        plots.selected_values(dense_model())
