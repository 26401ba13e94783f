"""A small GPT that writes Python's documentation, from weights that are selected and never trained.

Embeddings, attention and dense layers all select each weight from eight fixed random values. The text is what
`help()` shows about Python's topics (465,000 characters in Python 3.11); every tenth topic is held out.

Needs pip install "keras-slots[examples]". Takes ten minutes on two cores, offline. A held-out character costs
2.12 bits with selected and with learned weights; the selected network takes 147 kB, 2.73 bits a weight.

    python examples/char_transformer.py
    python examples/char_transformer.py --small    # a minute, a smaller network
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

from pydoc_data.topics import topics

import keras
import numpy as np
from keras import layers, ops

from keras_slots import save_slots, slotify

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--small", action="store_true", help="one block of half the width, fewer steps")
parser.add_argument("--values", type=int, default=8, help="K, values of each connection (default: %(default)s)")
parser.add_argument("--out", default="gpt.slots", help="file for the selected network (default: %(default)s)")
args = parser.parse_args()

LENGTH = 64
blocks, width, steps = (1, 64, 800) if args.small else (2, 128, 3000)
keras.utils.set_random_seed(0)

texts = [topics[name] for name in sorted(topics)]
characters = sorted(set("".join(texts)))
number = {character: i for i, character in enumerate(characters)}
held_out = "".join(texts[::10])
text = "".join(topic for i, topic in enumerate(texts) if i % 10)
print(f"{len(text):,} characters to train on, {len(held_out):,} held out, {len(characters)} different ones")


def windows(text, starts):
    """Windows of LENGTH characters, and the character that follows each of theirs."""
    numbers = np.array([number[character] for character in text], "int32")
    rows = numbers[starts[:, None] + np.arange(LENGTH + 1)]
    return rows[:, :-1], rows[:, 1:]


def gpt():
    """An ordinary transformer, not trained yet."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    positions = ops.cumsum(ops.ones_like(inputs), axis=1) - 1
    x = layers.Embedding(len(characters), width)(inputs) + layers.Embedding(LENGTH, width)(positions)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(y, y, use_causal_mask=True)
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(inputs, layers.Dense(len(characters))(layers.LayerNormalization()(x)))


def train(model):
    """Bits for each character that is held out, after training."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=steps // 20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    x, y = windows(text, np.random.default_rng(0).integers(0, len(text) - LENGTH, 32 * steps))
    model.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    x, y = windows(held_out, np.arange(0, len(held_out) - LENGTH, LENGTH))
    return model.evaluate(x, y, verbose=0) / np.log(2)


def write(model, start, length, rng):
    """Text that goes on from `start`, drawn with a temperature of 0.5."""
    written = [number[character] for character in start]
    while len(written) < length:
        window = np.zeros((1, LENGTH), "int32")
        recent = written[-LENGTH:]
        window[0, : len(recent)] = recent
        logits = ops.convert_to_numpy(model(window))[0, len(recent) - 1].astype("float64") / 0.5
        shares = np.exp(logits - logits.max())
        written.append(rng.choice(len(characters), p=shares / shares.sum()))
    return "".join(characters[i] for i in written)


learned = gpt()
selected = slotify(learned, args.values, score_mode="nearest", seed=0)
bits = {}
for name, model in (("selected", selected), ("learned", learned)):
    bits[name] = train(model)
    print(f"held out, bits a character: {bits[name]:.3f} with {name} weights", flush=True)
file = save_slots(selected, args.out, overwrite=True)
size, weights = file.stat().st_size, learned.count_params()
print(f"{file}: {size:,} bytes for {weights:,} weights, {8 * size / weights:.2f} bits each\n")
print(write(selected, "The ", 300, np.random.default_rng(0)))
