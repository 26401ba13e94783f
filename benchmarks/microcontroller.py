"""What `export_selected(format="c")` takes on microcontrollers: flash, RAM, instructions; and what it gets right.

    python benchmarks/microcontroller.py --data mnist.npz --models models --out FILE

Networks are trained on MNIST with nearest scores and values of eight bits, or read from `--models` if an
earlier run has left them there: LeNet-300-100 with K = 8, a convolutional network of 14,472 connections with
K = 3, both exported with integers and with floats, and the network of examples/tiny_mnist.py, 4,728 connections
with K = 4, as that page exports it. All are run on this computer on all test images, and under qemu-system-arm
on the first 100 of them. Needs gcc, and the Debian packages gcc-arm-none-eabi and qemu-system-arm.
"""

import argparse
import re
import subprocess
from pathlib import Path

import keras
import numpy as np

import record
from keras_slots import SlotConv2D, SlotDense, StratifiedUniform, export_selected
from zoo import run_page

L = keras.layers
PROGRAM = Path(__file__).resolve().parents[1] / "examples" / "microcontroller"
FLAGS = ["-std=c99", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-mthumb"]
LINK = ["-nostdlib", "-Wl,--gc-sections"]
#: Processor -> its flags, the machine of qemu, its RAM in kB and the clock of its counter.
PROCESSORS = {
    "Cortex-M0": (["-mcpu=cortex-m0"], "microbit", 16, 16),
    "Cortex-M4": (["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"], "mps2-an386", 64, 25),
}
ON_BOARD = 100  # images
FLOATS = """#include "network.h"
int classify(const uint8_t *image, int32_t *output);
int classify(const uint8_t *image, int32_t *output)
{
    static float x[NETWORK_INPUTS];
    float y[NETWORK_OUTPUTS];
    for (unsigned i = 0; i < NETWORK_INPUTS; i++) x[i] = image[i] / 255.0f;
    int number = network_predict(x, y);
    for (unsigned i = 0; i < NETWORK_OUTPUTS; i++) output[i] = (int32_t)(y[i] * 1000.0f);
    return number;
}
"""
COLUMNS = {
    "constants": "{constants:,}",
    "code": "{code:,}",
    "static RAM": "{ram:,}",
    "stack": "{stack:,}",
    "instructions": "{instructions:,}",
    "right of 10,000": "{right:,}",
}


def lenet(**slots):
    units = (SlotDense(n, activation="relu", num_values=8, **slots) for n in (300, 100))
    return keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), *units, SlotDense(10, num_values=8, **slots)])


def convolutional(**slots):
    slots |= {"num_values": 3, "move_regularizer": keras.regularizers.L1(3e-5)}

    def block(filters, padding, *more):
        conv = SlotConv2D(filters, 3, padding=padding, use_bias=False, **slots)
        return conv, L.BatchNormalization(scale=False), L.ReLU(), *more

    blocks = [block(8, "valid", L.MaxPooling2D()), block(16, "same"), block(24, "valid", L.MaxPooling2D())]
    blocks.append(block(32, "valid", L.Flatten()))
    return keras.Sequential([keras.Input((28, 28, 1)), *sum(blocks, ()), SlotDense(10, **slots)])


#: Name -> the network, and whether it is trained on images that are moved.
NETWORKS = {"LeNet-300-100": (lenet, False), "convolutional": (convolutional, True)}


def moved(images, random):
    """Images moved by up to two pixels in each direction."""
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    at = random.integers(0, 5, (2, len(images), 1))
    rows, columns = at + np.arange(28)
    return wide[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def trained(make, moves, x, y, epochs):
    keras.utils.set_random_seed(0)
    model = make(score_mode="nearest", bank_initializer=StratifiedUniform(1.5, bits=8))
    rate = keras.optimizers.schedules.CosineDecay(0.05, epochs * -(-len(x) // 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss)
    random = np.random.default_rng(0)
    for _ in range(epochs):
        model.fit(moved(x, random) if moves else x, y, batch_size=128, verbose=0)
    return model


def write_images(path, images, labels):
    rows = ",\n".join("{" + ",".join(map(str, image)) + "}" for image in images.reshape(len(images), -1))
    path.write_text(
        f"#include <stdint.h>\n#define IMAGES {len(images)}\n#define CLASSES 10\n"
        f"static const uint8_t labels[IMAGES] = {{{','.join(map(str, labels))}}};\n"
        f"static const uint8_t images[IMAGES][784] = {{\n{rows}}};\n",
        encoding="utf-8",
    )


def run(*command):
    # Semihosting writes to standard error.
    done = subprocess.run(
        [*map(str, command)], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def numbers(text):
    return {name: int(value) for name, value in re.findall(r"(.*): (\d+)", text)}


def measure(folder, network, images, labels, processors):
    """The figures of a header on each processor: `network` is a file that defines `classify`."""
    write_images(folder / "images.h", images, labels)
    sources = [PROGRAM / "main.c", network, f"-I{folder}"]
    run("gcc", "-std=c99", "-O2", *sources, PROGRAM / "host.c", "-o", folder / "host")
    right = numbers(run(folder / "host"))["right"]
    write_images(folder / "images.h", images[:ON_BOARD], labels[:ON_BOARD])
    run("gcc", "-std=c99", "-O2", *sources, PROGRAM / "host.c", "-o", folder / "host")
    host = numbers(run(folder / "host"))
    for processor in processors:
        flags, machine, ram, clock = PROCESSORS[processor]
        link = [
            "-nostdlib",
            "-Wl,--gc-sections",
            f"-Wl,--defsym=ram_size={ram}K",
            "-T",
            PROGRAM / "link.ld",
            "-lgcc",
        ]
        for level in ("-Os", "-O2"):
            arm = ["arm-none-eabi-gcc", *FLAGS, *flags, level, "-fno-tree-loop-distribute-patterns"]
            run(*arm, "-c", network, f"-I{folder}", "-o", folder / "network.o")
            sizes = run("arm-none-eabi-size", "-A", folder / "network.o")
            size = {name: int(value) for name, value in re.findall(r"^(\.\S+)\s+(\d+)", sizes, re.MULTILINE)}

            def total(kind, size=size):
                return sum(value for name, value in size.items() if name.startswith(kind))

            elf = folder / "network.elf"
            run(*arm, f"-DCLOCK_MHZ={clock}", *sources, PROGRAM / "board.c", *link, "-o", elf)
            qemu = ["qemu-system-arm", "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0"]
            qemu += ["-semihosting-config", "enable=on,target=native", "-M", machine, "-kernel", elf]
            board = numbers(run(*qemu))
            yield {
                "processor": processor,
                "flags": level,
                "constants": total(".rodata"),
                "code": total(".text"),
                "ram": total(".bss") + total(".data"),
                "stack": board["bytes of stack"],
                "instructions": board["instructions for an image, at most"],
                "right": right,
                "same_outputs_as_host": board["checksum"] == host["checksum"],
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help=".npz file with x_train, y_train, x_test, y_test of MNIST")
    parser.add_argument("--models", type=Path, required=True, help="folder of trained models and their headers")
    parser.add_argument("--epochs", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--machine", help="what to write for the machine; default: its processor")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for all figures, JSON")
    args = parser.parse_args()
    with np.load(args.data) as data:
        x, y, images, labels = (data[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = ((part[..., None] / 255).astype("float32") for part in (x, images))
    rows = []

    def add(name, folder, network, variant, processors, in_keras):
        for row in measure(folder, network, images, labels, processors):
            row = {"network": name, "variant": f"{variant}, {row['processor']}, {row['flags']}", **row}
            rows.append({**row, "right_in_keras": in_keras})
            record.print_row(row, COLUMNS)
            record.write(args, rows)

    for name, (make, moves) in NETWORKS.items():
        args.models.mkdir(parents=True, exist_ok=True)
        path = args.models / f"{name}.keras"
        if not path.exists():
            trained(make, moves, x, y, args.epochs).save(path)
        model = keras.models.load_model(path)
        in_keras = int((model.predict(x_test, verbose=0, batch_size=500).argmax(1) == labels).sum())
        record.print_head(f"{name}: {in_keras} of 10,000 right in Keras", COLUMNS)
        for variant, calibration in (("integers", x[:500]), ("floats", None)):
            folder = args.models / f"{name}-{variant}"
            folder.mkdir(exist_ok=True)
            export_selected(model, folder / "network.h", format="c", calibration_data=calibration, overwrite=True)
            network = PROGRAM / "network.c"
            if variant == "floats":
                network = folder / "network.c"
                network.write_text(FLOATS, encoding="utf-8")
            # Floats need more RAM than a micro:bit has, and a processor that computes with them.
            add(name, folder, network, variant, PROCESSORS if variant == "integers" else ["Cortex-M4"], in_keras)
    folder = args.models / "tiny_mnist"
    folder.mkdir(exist_ok=True)
    flags = ["--data-dir", args.data, "--header", folder / "network.h"]
    accuracy = run_page("tiny_mnist.py", folder / "network.slots", *flags)
    in_keras = round(100 * accuracy)
    record.print_head(f"tiny_mnist: {in_keras} of 10,000 right in Keras", COLUMNS)
    add("tiny_mnist", folder, PROGRAM / "network.c", "integers", PROCESSORS, in_keras)


if __name__ == "__main__":
    main()
