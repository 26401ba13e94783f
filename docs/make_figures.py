"""Draws figures of the guides.

python docs/make_figures.py

docs/staircase.png        the K lines of one connection, their upper envelope, and the selected value
docs/changes.png          the choices that change while a network learns scikit-learn's digits
docs/selected_values.png  the values that it has selected afterwards
"""

from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from keras_slots import SelectionMonitor, SlotDense
from keras_slots.inspect import plots
from keras_slots.kernels.envelope import envelope

# Colours that colour-blind people tell apart.
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"
HERE = Path(__file__).parent


def draw_staircase():
    """One connection."""
    rng = np.random.default_rng(116)
    bank = rng.uniform(-1, 1, (8, 1))
    scores = rng.uniform(0, 0.1, (8, 1))
    _, steps = envelope(bank.T, scores.T)
    levers = np.linspace(-0.25, 0.25, 1001)
    lines = scores + bank * levers
    selected = bank[lines.argmax(0), 0]

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    above.plot(levers, lines.T, color="0.75", linewidth=1)
    above.plot(levers, lines.max(0), color=BLUE, linewidth=2.5, label="highest score")
    above.set_ylabel("score s(0) + w·u")
    above.legend(loc="lower right")
    below.step(levers, selected, color=BLUE, linewidth=2.5, label="selected value")
    chosen = np.isin(bank[:, 0], steps[:, 0])
    for ever, style in ((True, ("0.4", ":", "selected somewhere")), (False, (RED, "--", "never selected"))):
        color, line, label = style
        for number, value in enumerate(bank[chosen == ever, 0]):
            below.axhline(value, color=color, linewidth=1, linestyle=line, label=label if not number else None)
    below.set_ylabel("value w")
    below.set_xlabel("lever u")
    below.legend(loc="lower right", fontsize="small")
    figure.suptitle("One connection with K = 8 values")
    figure.savefig(HERE / "staircase.png", dpi=110)


def draw_changes():
    """Share of changed selections over 20 epochs, and the values selected at their end."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    slots = {"score_mode": "per_connection", "use_bias": False}
    layers = [SlotDense(100, activation="relu", name="hidden", **slots), SlotDense(10, name="logits", **slots)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    epochs, steps = 20, -(-len(x) // 32)
    rate = keras.optimizers.schedules.CosineDecay(0.3, epochs * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
    values = plots.selected_values(model, "selected, before training", RED)
    history = model.fit((x / 16).astype("float32"), y, epochs=epochs, verbose=2, callbacks=[SelectionMonitor()])
    plots.selected_values(model, "selected, after 20 epochs", BLUE, values)
    values.savefig(HERE / "selected_values.png", dpi=90)
    axes = Figure(figsize=(7, 4.5), layout="constrained").subplots()
    for name, style in (("hidden/", (BLUE, "o")), ("logits/", (RED, "^")), ("", (GREEN, "s"))):
        shares = 100 * np.array(history.history[f"slots/{name}changed"])
        label = f"layer {name[:-1]}" if name else "network"
        axes.plot(range(1, epochs + 1), shares, label=label, color=style[0], marker=style[1], markersize=4)
    axes.set(xlabel="epoch", ylabel="selections that changed, %", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small")
    axes.figure.savefig(HERE / "changes.png", dpi=80)


def main():
    """Writes the figures beside this file."""
    draw_staircase()
    draw_changes()


if __name__ == "__main__":
    main()
