"""Draws docs/staircase.png: the K lines of one connection, their upper envelope, and the selected value.

python docs/make_figures.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from keras_slots.envelope import envelope


def main():
    """Writes the figure beside this file."""
    rng = np.random.default_rng(116)
    bank = rng.uniform(-1, 1, (8, 1))
    scores = rng.uniform(0, 0.1, (8, 1))
    _, steps = envelope(bank.T, scores.T)
    levers = np.linspace(-0.25, 0.25, 1001)
    lines = scores + bank * levers
    selected = bank[lines.argmax(0), 0]

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    above.plot(levers, lines.T, color="0.75", linewidth=1)
    above.plot(levers, lines.max(0), color="tab:blue", linewidth=2.5, label="highest score")
    above.set_ylabel("scores  s(0) + w·u")
    above.legend(loc="lower right")
    below.step(levers, selected, color="tab:blue", linewidth=2.5, label="selected value")
    for value in bank[:, 0]:
        chosen = np.isin(value, steps[:, 0])
        below.axhline(value, color="0.4" if chosen else "tab:red", linewidth=0.6, linestyle=":")
    below.set_ylabel("values w (red: never selected)")
    below.set_xlabel("lever u")
    below.legend(loc="lower right")
    figure.suptitle("One connection with K = 8 values")
    figure.savefig(Path(__file__).with_name("staircase.png"), dpi=110)


if __name__ == "__main__":
    main()
