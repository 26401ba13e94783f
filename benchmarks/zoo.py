"""Makes the networks of `keras_slots.zoo` with scripts of examples/: files, cards, and tables in docs/zoo.md.

    python benchmarks/zoo.py --data-dir DIR --runs runs/zoo     # DIR holds mnist.npz and cifar10.npz
    python benchmarks/zoo.py --data-dir DIR --runs runs/zoo --networks mnist_convnet_2kb
    python benchmarks/zoo.py --tables

The first command may be interrupted: it trains no network whose file is in `--runs` already. The networks of seed
0 become those of the package. Results are in benchmarks/results/zoo.json. The last command only writes the tables
again.
"""

import argparse
import csv
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
from keras_slots.slots_file import container, records

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "keras_slots" / "zoo"
PAGE = ROOT / "docs" / "zoo.md"
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
CIFAR10 = "cifar10.npz", "CIFAR-10, 40,000 images for training, the next 10,000 for the test"
#: Script -> the file of its data, and what a card says of them; with `--small` they are digits.
DATA = {"tiny_mnist.py": ("mnist.npz", "MNIST"), "cifar10_in_an_hour.py": CIFAR10, "paper/train.py": CIFAR10}
#: Name -> number of seeds, and the script with its flags.
NETWORKS = {
    "cifar10_convnet": (3, "cifar10_in_an_hour.py --num-values 4"),
    "cifar10_resnet8": (3, "paper/train.py --recipe ours-resnet8-ns-k5 --validation-share 0.02"),
    "digits_convnet": (1, "tiny_mnist.py --small --layers 'c8 p c12 p c16' --epochs 60"),
    "digits_dense": (1, "tiny_mnist.py --small --layers d32 --num-values 8 --rate 0.05 --epochs 60"),
    "mnist_convnet_1kb": (1, "tiny_mnist.py --layers 's6 c8 c8 p c10'"),
    "mnist_convnet_2kb": (3, "tiny_mnist.py --layers 's8 c12 c12 p c16'"),
    "mnist_convnet_3kb": (3, "tiny_mnist.py --layers 's12 c16 c18 p c22'"),
    "mnist_lenet_k3": (1, "tiny_mnist.py --layers 'd300 d100' --num-values 3 --penalty 3e-5 --rate 0.05"),
    "mnist_lenet_k8": (1, "tiny_mnist.py --layers 'd300 d100' --num-values 8 --penalty 1e-5 --rate 0.05"),
}


def run_page(page, out, *flags):
    """Runs a page of examples/, unless its file is there; returns the test accuracy that it prints, in percent."""
    said = out.with_suffix(".txt")
    if not out.exists():
        with said.open("w", encoding="utf-8") as printed:
            command = [sys.executable, ROOT / "examples" / page, *flags, "--out", out]
            subprocess.run(command, check=True, stdout=printed)
    return float(re.findall(r"test accuracy ([\d.]+)%", said.read_text(encoding="utf-8"))[-1])


def run_paper(out, data, *flags):
    """Trains with the runner of the paper and packs the last state, unless that is there; as `run_page`."""
    folder, scripts = out.with_suffix(""), ROOT / "examples" / "paper"
    if not out.exists():
        train = [scripts / "train.py", *flags, "--run-dir", folder, "--results", folder / "results.csv"]
        pack = [scripts / "size.py", folder, "--state", "last", "--out", folder / "sizes.csv"]
        for command in (train, pack):
            subprocess.run([sys.executable, *command, "--data-dir", data], check=True)
        shutil.copy(folder / "state" / "last.slots", out)
    with (folder / "sizes.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    return round(100 * float(row["test"]), 2)


def trained(name, seed, args):
    """The card of a network, which is trained if its file is not there yet."""
    out = args.runs / f"{name}-{seed}.slots"
    script, *flags = [*shlex.split(NETWORKS[name][1]), "--seed", str(seed)]
    file, data = DATA[script]
    small = "--small" in flags
    command = ["python", f"examples/{script}", *([] if small else ["--data-dir", file]), *flags]
    if script == "paper/train.py":
        accuracy = run_paper(out, args.data_dir / file, *flags)
        pack = ["python", "examples/paper/size.py", name, "--state", "last", "--data-dir", file]
        command = f"{shlex.join([*command, '--run-dir', name])} && {shlex.join(pack)}"
    else:
        accuracy = run_page(script, out, *([] if small else ["--data-dir", args.data_dir / file]), *flags)
        command = shlex.join([*command, "--out", f"{name}.slots"])
    content = out.read_bytes()
    kernels = [kernel for kernel in container.split(content).records if kernel.form != "stored"]
    connections = sum(kernel.size for kernel in kernels)
    card = {
        "name": name,
        "data": "digits of scikit-learn" if small else data,
        "accuracy": accuracy,
        "bytes": len(content),
        "connections": connections,
        "K": int(re.match(r"K = (\d+)", records.summary(kernels[0]))[1]),
        "bits": round(8 * len(content) / connections, 2),
        "seed": seed,
        **record.origin(args.machine),
        "command": command,
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
    parser.add_argument("--data-dir", type=Path, help="folder of mnist.npz and cifar10.npz")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/zoo"), help="folder of runs (default: %(default)s)"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--machine", help="what to write for the machine; default: its processor")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for all cards (default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="write the tables, train nothing")
    args = parser.parse_args()
    if not args.tables:
        args.runs.mkdir(parents=True, exist_ok=True)
        known = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out.exists() else []
        rows = {(card["name"], card["seed"]): card for card in known}
        each = [(name, seed) for name, (count, _) in NETWORKS.items() for seed in range(count)]
        rows |= {(name, seed): trained(name, seed, args) for name, seed in each if name in args.networks}
        record.write(args, [rows[key] for key in each if key in rows])
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
