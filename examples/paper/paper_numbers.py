"""Test accuracies of the paper in %, read off its figures to about 0.1.

Source: Slot Machines (arXiv 2101.06475), figures of accuracy against K; each is a mean of 5 runs.
"""

VALUES = (2, 4, 8, 16, 32, 64)
ACCURACIES = {
    "greedy": {
        "lenet300100": (97.15, 98.0, 98.2, 98.17, 98.18, 98.16),
        "conv2": (75.2, 77.85, 78.1, 78.2, 77.8, 77.5),
        "conv4": (81.8, 85.75, 86.0, 86.4, 86.3, 85.1),
        "conv6": (85.25, 87.9, 88.4, 88.2, 88.1, 87.7),
        "vgg19": (None, None, 91.0, None, None, None),
    },
    "probabilistic": {
        "lenet300100": (97.07, 97.83, 97.84, 97.87, 98.02, 97.84),
        "conv2": (70.1, 70.5, 71.6, 71.7, 71.0, 70.9),
        "conv4": (79.0, 80.2, 79.6, 79.2, 79.4, 79.4),
        "conv6": (81.7, 81.6, 81.3, 80.7, 81.0, 80.5),
    },
}
LEARNED = {"lenet300100": 97.95, "conv2": 79.3, "conv4": 86.5, "conv6": 88.0}


def paper_accuracy(row):
    """The paper's test accuracy for the experiment of a results row, or None."""
    network = row["network"]
    if row["dataset"] != ("mnist" if network == "lenet300100" else "cifar10"):
        return None
    if row["method"] == "learned":
        return LEARNED.get(network)
    curve = ACCURACIES[row["selection"]].get(network, ()) if row["sharing"] == "connection" else ()
    return dict(zip(VALUES, curve, strict=False)).get(int(row["num_values"]))
