/* Runs a network of dense layers, such as LeNet-300-100, from a .slots file on MNIST images.

     cc -std=c99 -O2 -o lenet lenet.c
     ./lenet FILE.slots IMAGES [LABELS [MEAN STD]]

   IMAGES and LABELS are uncompressed MNIST files (idx), or raw bytes: one byte per pixel, one byte per label. The
   input of the network is (pixel / 255 - MEAN) / STD, or pixel / 255. Kernels are (inputs, outputs), each may be
   followed by a bias, and there is a ReLU between layers. Prints the class of each image on its own line; with
   LABELS, only how many are right.
   Exit status: that of slots.c; 1 if the file holds another kind of network or an input cannot be read.           */
#define SLOTS_NO_MAIN
#include "slots.c"

static uint8_t *read_bytes(const char *path, unsigned axes, uint64_t *size) {
    FILE *file = fopen(path, "rb");
    long length = -1;
    if (file && !fseek(file, 0, SEEK_END)) length = ftell(file);
    uint8_t *bytes = length > 0 ? malloc((size_t)length) : NULL;
    if (bytes && (fseek(file, 0, SEEK_SET) || fread(bytes, 1, (size_t)length, file) != (size_t)length)) {
        free(bytes);
        bytes = NULL;
    }
    if (file) fclose(file);
    if (!bytes) return NULL;
    const uint8_t magic[4] = {0, 0, 8, (uint8_t)axes};
    uint64_t head = 4 + 4 * (uint64_t)axes;
    *size = (uint64_t)length;
    if (*size >= head && !memcmp(bytes, magic, 4)) {
        *size -= head;
        memmove(bytes, bytes + head, *size);
    }
    return bytes;
}

static float number_at(const Weight *w, uint64_t i) {
    uint32_t bits = (uint32_t)number(w->data + 4 * i, 4);
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static int is_float(const Weight *w) { return w->form || w->dtype == 0; }

/* Whether the weights are kernels of matching shapes, each with or without a bias; and the widest layer. */
static int is_dense(const Slots *s, uint32_t *widest) {
    uint32_t width = 0;
    *widest = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const Weight *w = s->weights + i;
        int bias = i && w->axes == 1 && w->shape[0] == width && s->weights[i - 1].axes == 2;
        if (!is_float(w) || !w->count || (!bias && (w->axes != 2 || (width && w->shape[0] != width)))) return 0;
        for (unsigned a = 0; a < w->axes; a++) if (w->shape[a] > *widest) *widest = w->shape[a];
        width = w->shape[w->axes - 1];
    }
    return width > 0;
}

static uint32_t classify(const Slots *s, const uint8_t *image, float *x, float *y, double mean,
                         double std) {
    uint32_t width = s->weights[0].shape[0], best = 0;
    for (uint32_t i = 0; i < width; i++) x[i] = (float)((image[i] / 255.0 - mean) / std);
    for (uint32_t n = 0; n < s->count; n++) {
        const Weight *w = s->weights + n;
        uint32_t outputs = w->shape[w->axes - 1];
        if (w->axes == 2) {
            if (n) for (uint32_t i = 0; i < width; i++) if (!(x[i] > 0)) x[i] = 0;
            for (uint32_t j = 0; j < outputs; j++) y[j] = 0;
            for (uint32_t i = 0; i < width; i++)
                for (uint32_t j = 0; x[i] != 0 && j < outputs; j++)
                    y[j] += x[i] * number_at(w, (uint64_t)i * outputs + j);
            float *other = x;
            x = y; y = other;
            width = outputs;
        } else
            for (uint32_t j = 0; j < outputs; j++) x[j] += number_at(w, j);
    }
    for (uint32_t j = 1; j < width; j++) if (x[j] > x[best]) best = j;
    return best;
}

int main(int argc, char **argv) {
    Slots s = {0};
    uint64_t size = 0, count = 0, right = 0;
    uint32_t widest = 0;
    uint8_t *images = NULL, *labels = NULL;
    float *numbers = NULL;
    double mean = argc == 6 ? atof(argv[4]) : 0, std = argc == 6 ? atof(argv[5]) : 1;
    Status status = argc < 3 || argc == 5 || argc > 6 ? USAGE : slots_open(argv[1], 1, &s);
    if (status == OK && !(std > 0)) status = USAGE;
    if (status == OK && !is_dense(&s, &widest)) status = FAILED;
    if (status == OK && !(images = read_bytes(argv[2], 3, &size))) status = FAILED;
    if (status == OK && size % s.weights[0].shape[0]) status = FAILED;
    if (status == OK) size /= s.weights[0].shape[0];
    if (status == OK && argc > 3 && (!(labels = read_bytes(argv[3], 1, &count)) || count != size)) status = FAILED;
    if (status == OK && !(numbers = malloc(2 * (uint64_t)widest * sizeof *numbers))) status = NO_MEMORY;
    for (uint64_t i = 0; i < size && status == OK; i++) {
        uint32_t best = classify(&s, images + i * s.weights[0].shape[0], numbers, numbers + widest, mean, std);
        if (labels) right += best == labels[i];
        else printf("%u\n", (unsigned)best);
    }
    if (status == OK && labels) printf("%lu of %lu right\n", (unsigned long)right, (unsigned long)size);
    if (status != OK) fprintf(stderr, "lenet: cannot run this (status %d)\n", (int)status);
    free(images); free(labels); free(numbers);
    slots_free(&s);
    return (int)status;
}
