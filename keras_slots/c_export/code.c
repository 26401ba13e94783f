/* The functions of which `header.py` makes a header. It takes the parts that a network needs, leaves out the lines
   that begin with three asterisks, and puts the name of the network in place of `net`. */

/*** values: integers */
typedef uint8_t net_value;  /* an activation, (value - zero) * scale */
typedef int8_t net_weight;  /* weight = integer * unit */
typedef int32_t net_sum;

/*** values: floats */
typedef float net_value;
typedef float net_weight;
typedef float net_sum;

/*** kernel */
/* Every output of a layer has `inputs` connections. Connection i of output o has the number o + i * outputs. The
   choices are packed in the order of their use: in a dense layer input by input, else output by output. */
typedef struct {
    const uint8_t *choices; /* which of its K values each connection selects */
    uint8_t choice_bits;    /* bits of a choice; 0: five choices in a byte, K = 3 */
    uint16_t inputs, outputs;
/*** kernel: hash */
    uint32_t key0, key1;    /* of the hash that makes the values */
    uint8_t stratum_bits;   /* a value has 2**stratum_bits positions, of which the hash picks one */
    uint8_t step;           /* the value of a position is step * position + lowest */
    int32_t lowest;
/*** kernel: table */
    const net_weight *table; /* the K values, the same for all connections; 0: each has its own */
/*** kernel: end */
} net_kernel;

typedef struct {
    const uint8_t *next;
    uint32_t window;
    unsigned left;
} net_reader;

/* Reads the next choice. */
static uint32_t net_choice(const net_kernel *kernel, net_reader *reader)
{
    uint32_t choice;
/*** choice: five in a byte */
    if (kernel->choice_bits == 0) {
        if (reader->left == 0) {
            reader->window = *reader->next++;
            reader->left = 5;
        }
        choice = reader->window;
        reader->window = choice * 171 >> 9; /* a third of a byte */
        reader->left--;
        return choice - 3 * reader->window;
    }
/*** choice: bits */
    unsigned bits = kernel->choice_bits;
    while (reader->left < bits) {
        reader->window |= (uint32_t)*reader->next++ << reader->left;
        reader->left += 8;
    }
    choice = reader->window & ((UINT32_C(1) << bits) - 1);
    reader->window >>= bits;
    reader->left -= bits;
    return choice;
}

/*** hash */
static uint32_t net_mix(uint32_t x)
{
    x ^= x >> 16;
    x *= UINT32_C(0x21F0AAAD);
    x ^= x >> 15;
    x *= UINT32_C(0xD35A2D97);
    return x ^ x >> 15;
}

/*** weight */
/* The weight of a connection that selects its value number `choice`. */
static net_weight net_weight_of(const net_kernel *kernel, uint32_t connection, uint32_t choice)
{
/*** weight: table */
    (void)connection;
    return kernel->table[choice];
/*** weight: either */
    if (kernel->table) return kernel->table[choice];
/*** weight: hash */
    uint32_t pair = (choice >> 1) * UINT32_C(0x9E3779B9);
    uint32_t hash = net_mix(net_mix(connection + kernel->key0) ^ kernel->key1 ^ pair);
    uint32_t half = choice & 1 ? hash >> 16 : hash & 0xFFFF;
    uint32_t position = (choice << kernel->stratum_bits) + (half >> (16 - kernel->stratum_bits));
    return (net_weight)((int32_t)(kernel->step * position) + kernel->lowest);
/*** weight: end */
}

/*** scale: integers */
/* How the sum over the connections of an output, an integer, becomes its value: times a multiplier, shifted to
   256ths of a value, plus bias and offset, rounded. */
typedef struct {
    const int32_t *multipliers; /* one, or one for each output */
    const int32_t *bias;        /* in 256ths of a value; 0: none */
    int32_t offset;             /* 256 * zero + 128 */
    uint8_t shift;
    uint8_t per_output;
} net_scale;

/*** finish: integers */
static net_value net_finish(const net_scale *scale, net_sum sum, unsigned output)
{
    int64_t value = (int64_t)sum * scale->multipliers[scale->per_output ? output : 0];
    /* An arithmetic shift, as all usual compilers do it. */
    value = (value >> scale->shift) + scale->offset + (scale->bias ? scale->bias[output] : 0);
    return value < 0 ? 0 : value > 0xFFFF ? 0xFF : (net_value)(value >> 8);
}

/*** scale: floats */
/* How the sum over the connections of an output becomes its value. */
typedef struct {
    const float *multipliers; /* one, or one for each output */
    const float *bias;        /* 0: none */
    float low, high;          /* the activation: relu has low = 0 */
    uint8_t per_output;
} net_scale;

/*** finish: floats */
static net_value net_finish(const net_scale *scale, net_sum sum, unsigned output)
{
    float value = sum * scale->multipliers[scale->per_output ? output : 0];
    if (scale->bias) value += scale->bias[output];
    return value < scale->low ? scale->low : value > scale->high ? scale->high : value;
}

/*** window */
/* Windows of an image of rows, columns, channels. */
typedef struct {
    uint16_t in_height, in_width, channels;
    uint16_t out_height, out_width; /* numbers of windows */
    uint16_t height, width;         /* of a window */
    uint16_t stride_y, stride_x, dilation_y, dilation_x;
    uint16_t top, left;             /* padding */
} net_window;

/*** dense */
typedef struct {
    net_kernel kernel;
    net_scale scale;
    uint16_t row;   /* bytes of the choices of an input */
/*** dense: zero */
    net_value zero; /* of the inputs */
/*** dense: end */
} net_dense_layer;

/* The sums of all outputs. Each weight is made when it is used, and not at all for an input of zero. */
static void net_dense_sums(const net_dense_layer *layer, const net_value *in, net_sum *sums)
{
    const net_kernel *kernel = &layer->kernel;
    const uint8_t *choices = kernel->choices;
    uint32_t connection = 0;
    for (unsigned o = 0; o < kernel->outputs; o++) sums[o] = 0;
    for (unsigned i = 0; i < kernel->inputs; i++, choices += layer->row, connection += kernel->outputs) {
        net_sum x = in[i] - NET_ZERO;
        if (x == 0) continue;
        net_reader reader = {choices, 0, 0};
        for (unsigned o = 0; o < kernel->outputs; o++)
            sums[o] += x * net_weight_of(kernel, connection + o, net_choice(kernel, &reader));
    }
}

/*** dense: sums */
static net_sum net_sums[NET_SUMS]; /* of one dense layer */

/*** dense: values */
static void net_dense(const net_dense_layer *layer, const net_value *in, net_value *out)
{
    net_dense_sums(layer, in, NET_SUMS_OF_OUT);
    for (unsigned o = 0; o < layer->kernel.outputs; o++)
        out[o] = net_finish(&layer->scale, NET_SUMS_OF_OUT[o], o);
}

/*** dense: output */
/* The last layer, whose outputs are the sums themselves. */
static void net_dense_output(const net_dense_layer *layer, const net_value *in, int32_t *out)
{
    net_dense_sums(layer, in, out);
    for (unsigned o = 0; layer->scale.bias && o < layer->kernel.outputs; o++)
        out[o] += layer->scale.bias[o];
}

/*** convolution */
typedef struct {
    net_kernel kernel;
    net_scale scale;
    net_window window;
    uint16_t depth;             /* input channels of an output */
    uint16_t group;             /* outputs that have the same input channels */
    uint16_t pool_y, pool_x;    /* each output is the largest of so many windows */
/*** convolution: zero */
    net_value zero;             /* of the inputs */
/*** convolution: end */
} net_convolution_layer;

#ifdef __GNUC__
#define NET_NOT_INLINE __attribute__((noinline))
#else
#define NET_NOT_INLINE
#endif

static net_weight net_row[NET_ROW]; /* the weights of one output */

/* The innermost loop. Inlined, it would not get enough registers on small processors. */
NET_NOT_INLINE static net_sum net_products(const net_value *in, const net_weight *weight, unsigned count, net_sum zero)
{
    net_sum sum = 0;
    for (; count; count--)
        sum += (*in++ - zero) * *weight++;
    return sum;
}

/* The sum of one window with the weights in `net_row`; what is outside of the image counts as zero. */
static net_sum net_window_sum(const net_convolution_layer *layer, const net_value *in, int y, int x)
{
    const net_window *w = &layer->window;
    const net_weight *weight = net_row;
    net_sum sum = 0;
    int width = w->width, depth = layer->depth;
    /* Neighbouring columns with all channels are next to each other. */
    int together = depth == w->channels && w->dilation_x == 1;
    for (unsigned dy = 0; dy < w->height; dy++, y += w->dilation_y, weight += width * depth) {
        if (y < 0 || y >= w->in_height) continue;
        const net_value *row = in + (uint32_t)y * w->in_width * w->channels;
        if (together) {
            int first = x < 0 ? -x : 0, end = x + width > w->in_width ? w->in_width - x : width;
            unsigned count = (unsigned)((end - first) * depth);
            sum += net_products(row + (x + first) * depth, weight + first * depth, count, NET_ZERO);
            continue;
        }
        int column = x;
        for (int dx = 0; dx < width; dx++, column += w->dilation_x)
            if (column >= 0 && column < w->in_width)
                sum += net_products(row + column * w->channels, weight + dx * depth, (unsigned)depth, NET_ZERO);
    }
    return sum;
}

/* Output by output: the weights of an output are made once, and then used at every position. */
static void net_convolution(const net_convolution_layer *layer, const net_value *in, net_value *out)
{
    const net_window *w = &layer->window;
    net_reader reader = {layer->kernel.choices, 0, 0};
    for (unsigned o = 0; o < layer->kernel.outputs; o++) {
        const net_value *channels = in + o / layer->group * layer->depth;
        net_value *to = out + o;
        uint32_t connection = o;
        for (unsigned i = 0; i < layer->kernel.inputs; i++, connection += layer->kernel.outputs)
            net_row[i] = net_weight_of(&layer->kernel, connection, net_choice(&layer->kernel, &reader));
        for (unsigned y = 0; y < w->out_height; y += layer->pool_y) {
            for (unsigned x = 0; x < w->out_width; x += layer->pool_x, to += layer->kernel.outputs) {
                for (unsigned py = 0; py < layer->pool_y; py++) {
                    for (unsigned px = 0; px < layer->pool_x; px++) {
                        net_sum sum = net_window_sum(layer, channels, (int)((y + py) * w->stride_y) - w->top,
                                                     (int)((x + px) * w->stride_x) - w->left);
                        net_value value = net_finish(&layer->scale, sum, o);
                        if ((py == 0 && px == 0) || value > *to) *to = value;
                    }
                }
            }
        }
    }
}

/*** max pooling */
static void net_max_pooling(const net_window *w, const net_value *in, net_value *out)
{
    for (unsigned i = 0; i < (uint32_t)w->out_height * w->out_width; i++) {
        int y = (int)(i / w->out_width * w->stride_y) - w->top, x = (int)(i % w->out_width * w->stride_x) - w->left;
        for (unsigned c = 0; c < w->channels; c++, out++) {
            int first = 1;
            for (int row = y; row < y + w->height; row++) {
                for (int column = x; column < x + w->width; column++) {
                    if (row < 0 || row >= w->in_height || column < 0 || column >= w->in_width) continue;
                    net_value value = in[((uint32_t)row * w->in_width + (unsigned)column) * w->channels + c];
                    if (first || value > *out) *out = value;
                    first = 0;
                }
            }
        }
    }
}

/*** average pooling */
typedef struct {
    net_window window;
    net_scale scale; /* of the sum of a window that is whole */
/*** average pooling: zero */
    net_value zero;  /* of the inputs */
/*** average pooling: end */
} net_average_layer;

static void net_average_pooling(const net_average_layer *layer, const net_value *in, net_value *out)
{
    const net_window *w = &layer->window;
    for (unsigned i = 0; i < (uint32_t)w->out_height * w->out_width; i++) {
        int y = (int)(i / w->out_width * w->stride_y) - w->top, x = (int)(i % w->out_width * w->stride_x) - w->left;
        for (unsigned c = 0; c < w->channels; c++) {
            net_sum sum = 0;
            int count = 0, whole = w->height * w->width;
            for (int row = y; row < y + w->height; row++) {
                for (int column = x; column < x + w->width; column++) {
                    if (row < 0 || row >= w->in_height || column < 0 || column >= w->in_width) continue;
                    sum += in[((uint32_t)row * w->in_width + (unsigned)column) * w->channels + c] - NET_ZERO;
                    count++;
                }
            }
            if (count < whole) sum = sum * whole / count;
            *out++ = net_finish(&layer->scale, sum, c);
        }
    }
}

/*** affine */
/* Batch normalization, rescaling or an activation that no other layer could take over. */
typedef struct {
    net_scale scale;
    uint32_t size;
    uint16_t channels;
/*** affine: zero */
    net_value zero; /* of the inputs */
/*** affine: end */
} net_affine_layer;

static void net_affine(const net_affine_layer *layer, const net_value *in, net_value *out)
{
    unsigned channel = 0;
    for (uint32_t i = 0; i < layer->size; i++) {
        out[i] = net_finish(&layer->scale, in[i] - NET_ZERO, channel);
        if (++channel == layer->channels) channel = 0;
    }
}

/*** add: integers */
typedef struct {
    uint32_t size;
    int32_t multiplier1, multiplier2, offset;
    uint8_t shift;
    net_value zero1, zero2; /* of the inputs */
} net_add_layer;

static void net_add(const net_add_layer *layer, const net_value *in1, const net_value *in2, net_value *out)
{
    for (uint32_t i = 0; i < layer->size; i++) {
        int32_t value = (in1[i] - layer->zero1) * layer->multiplier1;
        value += (in2[i] - layer->zero2) * layer->multiplier2 + layer->offset;
        value = value < 0 ? 0 : value >> layer->shift;
        out[i] = value > 0xFF ? 0xFF : (net_value)value;
    }
}

/*** add: floats */
typedef struct {
    uint32_t size;
    float low, high; /* the activation: relu has low = 0 */
} net_add_layer;

static void net_add(const net_add_layer *layer, const net_value *in1, const net_value *in2, net_value *out)
{
    for (uint32_t i = 0; i < layer->size; i++) {
        float value = in1[i] + in2[i];
        out[i] = value < layer->low ? layer->low : value > layer->high ? layer->high : value;
    }
}

/*** end */
