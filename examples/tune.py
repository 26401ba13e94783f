"""A search for K, learning rate and bank width with keras-tuner.

Only validation images decide. The best trial is trained again and evaluated once on the test images. A search
that was stopped resumes when it is started again with the same --out.

Needs pip install "keras-slots[examples,tuner]". Takes two minutes on two cores, on scikit-learn's digits.

    python examples/tune.py --out tune-output --trials 12
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow starts

import keras
import keras_tuner
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_slots import GlorotUniform, SlotDense

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", default="tune-output", help="folder of the search (default: %(default)s)")
parser.add_argument("--trials", type=int, default=12, help="(default: %(default)s)")
parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
args = parser.parse_args()

x, y = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.2, random_state=0)
x, x_validation, y, y_validation = train_test_split(x, y, test_size=0.2, random_state=0)


def build(hp):
    """A compiled model for one choice of hyperparameters."""
    keras.utils.set_random_seed(0)
    slots = {
        "num_values": hp.Choice("num_values", [2, 4, 8, 16, 32]),
        # In units of the Glorot bound. Large values win, so with few values a wider bank is better.
        "bank_initializer": GlorotUniform(hp.Float("bank_scale", 0.5, 2.5, sampling="log")),
        "score_mode": "per_connection",
        "use_bias": False,
    }
    model = keras.Sequential(
        [keras.Input((64,)), SlotDense(100, activation="relu", **slots), SlotDense(10, **slots)]
    )
    # Only the ratio of the learning rate to the scale of the scores matters, so only the rate is searched.
    learning_rate = hp.Float("learning_rate", 0.03, 3.0, sampling="log")
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, args.epochs * (len(x) // 32))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


tuner = keras_tuner.BayesianOptimization(
    build, objective="val_accuracy", max_trials=args.trials, seed=0, directory=args.out, project_name="digits"
)
validation = (x_validation, y_validation)
tuner.search(x, y, batch_size=32, epochs=args.epochs, validation_data=validation, verbose=0)

print(f"{'K':>4}{'bank scale':>12}{'learning rate':>15}{'validation':>12}")
for trial in sorted(tuner.oracle.trials.values(), key=lambda trial: -trial.score):
    chosen = trial.hyperparameters.values
    print(
        f"{chosen['num_values']:>4}{chosen['bank_scale']:>12.2f}{chosen['learning_rate']:>15.3f}"
        f"{trial.score:>12.2%}"
    )

best = build(tuner.get_best_hyperparameters()[0])
best.fit(x, y, batch_size=32, epochs=args.epochs, verbose=0)
print(f"test accuracy of the best: {best.evaluate(x_test, y_test, verbose=0)[1]:.2%}")
