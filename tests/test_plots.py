"""The figures show the numbers that they were given."""

import sys

import keras
import numpy as np
import pytest

from comparisons import numpy_of
from keras_slots import SelectionMonitor, SlotDense
from keras_slots.inspect import plots
from small_models import compiled_model, small_data, small_model


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
    with pytest.raises(ValueError, match=r"`figure` must show the kernels.*'conv'.*'hidden'"):
        plots.selected_values(small_model(), figure=figure)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must hold slot layers"):
        plots.selected_values(plain)


def test_plots_changes_shows_the_history_of_the_monitor():
    from matplotlib.figure import Figure

    model = compiled_model(small_model())
    history = model.fit(*small_data(), epochs=3, verbose=0, callbacks=[SelectionMonitor()])
    axes = Figure().subplots()
    assert plots.changes(history, axes) is axes.figure
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert curves == {
        "conv": history.history["slots/conv/changed"],
        "logits": history.history["slots/logits/changed"],
        "network": history.history["slots/changed"],
    }
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"SelectionMonitor.*\['loss'\]"):
        plots.changes({"loss": [1.0]})


def test_plots_accuracy_against_k_shows_mean_and_range_and_breaks_where_a_k_is_missing():
    runs = {"greedy": {2: [97.0, 98.0], 4: [98.5], 16: [98.0, 98.1, 98.2]}}
    (axes,) = plots.accuracy_against_k(runs, learned=[98.9, 99.1]).axes
    line, _, (bars,) = axes.containers[0].lines
    assert list(line.get_xdata()) == [2, 4, 8, 16]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [97.5, 98.5, np.nan, 98.1])
    lowest, highest = bars.get_segments()[0][:, 1]
    assert (lowest, highest) == (97.0, 98.0)
    assert axes.lines[-1].get_ydata()[0] == pytest.approx(99.0)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "16"]
    for bad in ({}, {"a": {}}, {"a": {2: []}}):
        with pytest.raises(ValueError, match="`curves` must hold curves"):
            plots.accuracy_against_k(bad)


def test_plots_accuracy_against_size_sorts_by_size():
    curves = {"slots": [(3e5, 98.8), (2e4, 98.0)], "float32": [(1_065_000, 98.9)]}
    (axes,) = plots.accuracy_against_size(curves).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[2e4, 98.0], [3e5, 98.8]],
        [[1_065_000, 98.9]],
    ]
    assert axes.get_xscale() == "log" and axes.xaxis.get_major_formatter()(1e5) == "100 kB"
    for bad in ({}, {"a": []}, {"a": [(0, 98.0)]}):
        with pytest.raises(ValueError, match="`curves` must hold pairs"):
            plots.accuracy_against_size(bad)


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
    with pytest.raises(
        ImportError, match=r'^`keras_slots.inspect.plots` needs .*"keras-slots\[plots\]"$'
    ):
        plots.accuracy_against_size({"a": [(1, 2)]})
