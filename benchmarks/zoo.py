"""Makes the networks of `keras_slots.zoo` with examples/tiny_mnist.py: files, cards, and tables in docs/zoo.md.

    python benchmarks/zoo.py --data mnist.npz --runs runs/zoo --out benchmarks/results/zoo.json
    python benchmarks/zoo.py --tables

The first command may be interrupted: it trains no network whose file is in `--runs` already. The networks of seed
0 become those of the package. The second command only writes the tables again.
"""

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import record
from keras_slots import zoo

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "keras_slots" / "zoo"
PAGE = ROOT / "docs" / "zoo.md"
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
#: Name -> number of seeds, and the flags of the page.
NETWORKS = {
    "digits_convnet": (1, "--small --layers 'c8 p c12 p c16' --epochs 60"),
    "digits_dense": (1, "--small --layers d32 --num-values 8 --rate 0.05 --epochs 60"),
    "mnist_convnet_1kb": (1, "--layers 's6 c8 c8 p c10'"),
    "mnist_convnet_2kb": (3, "--layers 's8 c12 c12 p c16'"),
    "mnist_convnet_3kb": (3, "--layers 's12 c16 c18 p c22'"),
    "mnist_lenet_k3": (1, "--layers 'd300 d100' --num-values 3 --penalty 3e-5 --rate 0.05"),
    "mnist_lenet_k8": (1, "--layers 'd300 d100' --num-values 8 --penalty 1e-5 --rate 0.05"),
}


def run_page(out, *flags):
    """Runs examples/tiny_mnist.py, unless its file is there; returns test accuracy, bytes and connections."""
    said = out.with_suffix(".txt")
    if not out.exists():
        page = [sys.executable, ROOT / "examples" / "tiny_mnist.py"]
        with said.open("w", encoding="utf-8") as printed:
            subprocess.run([*page, *flags, "--out", out], check=True, stdout=printed)
    *_, last = said.read_text(encoding="utf-8").splitlines()
    found = re.search(r"test accuracy ([\d.]+)%, ([\d,]+) bytes, ([\d,]+) conn", last)
    accuracy, *counts = (float(x.replace(",", "")) for x in found.groups())
    return accuracy, *map(int, counts)


def trained(name, seed, args):
    """The card of a network, which is trained if its file is not there yet."""
    out = args.runs / f"{name}-{seed}.slots"
    flags = [*shlex.split(NETWORKS[name][1]), "--seed", str(seed)]
    data = [] if "--small" in flags else ["--data-dir"]
    accuracy, size, connections = run_page(out, *data, *([args.data] if data else []), *flags)
    origin = record.origin(args.machine)
    command = ["python", "examples/tiny_mnist.py", *data, *["mnist.npz"][: len(data)], *flags]
    command += ["--out", f"{name}.slots"]
    card = {
        "name": name,
        "data": "MNIST" if data else "digits of scikit-learn",
        "accuracy": accuracy,
        "bytes": size,
        "connections": connections,
        "K": int(flags[flags.index("--num-values") + 1]) if "--num-values" in flags else 4,
        "bits": round(8 * size / connections, 2),
        "seed": seed,
        **origin,
        "command": shlex.join(command),
    }
    if seed == 0:
        shutil.copy(out, SHIPPED / f"{name}.slots")
        (SHIPPED / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def table(head, rows):
    """A table in Markdown."""
    lines = [" | ".join(row) for row in [head, ["---"] * len(head), *rows]]
    return "".join(f"| {line} |\n" for line in lines)


def shipped():
    """The table of the networks of the package, from their cards."""
    rows = []
    for name in zoo.names():
        card = zoo.card(name)
        rows.append([f"`{name}`", card["data"], f"{card['accuracy']:.2f}", f"{card['bytes']:,}"])
        rows[-1] += [f"{card['connections']:,}", str(card["K"]), f"{card['bits']:.2f}"]
    return table(["name", "data", "test accuracy, %", "bytes", "connections", "K", "bits a connection"], rows)


def seeds():
    """The table of the networks that were trained with several seeds, from the results of all."""
    cards = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    rows = []
    for name, (count, _) in NETWORKS.items():
        if count > 1:
            same = [card for card in cards if card["name"] == name]
            accuracies = [card["accuracy"] for card in same]
            rows.append([f"`{name}`", str(len(same)), f"{statistics.mean(accuracies):.2f}"])
            rows[-1] += [", ".join(f"{x:.2f}" for x in accuracies), ", ".join(f"{x['bytes']:,}" for x in same)]
    return table(["name", "seeds", "test accuracy, %, mean", "of each seed", "bytes of each file"], rows)


def filled(text):
    """The text of docs/zoo.md with its tables."""
    for name, make in (("shipped", shipped), ("seeds", seeds)):
        head, found, rest = text.partition(f"<!-- zoo: {name} -->\n\n")
        text = head + found + make() + rest[rest.index("\n<!-- /zoo -->") :]
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help=".npz file with x_train, y_train, x_test, y_test of MNIST")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/zoo"), help="folder of runs (default: %(default)s)"
    )
    parser.add_argument("--machine", help="what to write for the machine; default: its processor")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for all cards, JSON")
    parser.add_argument("--tables", action="store_true", help="write the tables, train nothing")
    args = parser.parse_args()
    if not args.tables:
        args.runs.mkdir(parents=True, exist_ok=True)
        rows = [trained(name, seed, args) for name, (count, _) in NETWORKS.items() for seed in range(count)]
        record.write(args, rows)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
