/* Reads a .slots file of keras_slots, as specified in docs/slots_format.md, using only the C library.

     cc -std=c99 -O2 -o slots slots.c
     ./slots FILE            lists the weights
     ./slots FILE FOLDER     writes FOLDER/0.bin, 1.bin, ...: kernels as float32, other weights as they are stored,
                             little-endian, in C order

   Exit status: see `Status` below.                                                                           */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    OK, FAILED = 1, USAGE = 2, CANNOT_READ = 3, FOREIGN = 4, TRUNCATED = 5, OTHER_VERSION = 6, CHECKSUM = 7,
    TOO_LARGE = 8, DAMAGED = 9, NO_MEMORY = 10
} Status;

typedef struct {
    unsigned form, dtype, axes;      /* form: 0 stored, 1 packed, 2 hull, 3 nearest */
    uint32_t shape[8];
    uint64_t count, bytes;           /* elements; bytes of data */
    uint8_t *data;
} Weight;

typedef struct { uint32_t count; Weight *weights; } Slots;

static const uint8_t item_size[13] = {4, 8, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1};
#ifndef MOST_BYTES
#define MOST_BYTES (UINT64_C(1) << 33) /* of all weights together */
#endif

/* ---- bytes ---- */
typedef struct { const uint8_t *at; uint64_t left; int bad; } Bytes;

static const uint8_t *take(Bytes *b, uint64_t n) {
    static const uint8_t nothing[16];
    if (n > b->left) { b->bad = 1; b->left = 0; return nothing; }
    b->at += n; b->left -= n;
    return b->at - n;
}
static uint64_t number(const uint8_t *p, int n) {
    uint64_t x = 0;
    while (n--) x = x << 8 | p[n];
    return x;
}
static uint64_t take_number(Bytes *b, int n) { return number(take(b, (uint64_t)n), n); }
/* A number of one to nine bytes: seven bits in each, the lowest first, and eight in the ninth. */
static uint64_t take_varint(Bytes *b) {
    uint64_t x = 0;
    for (int shift = 0; shift < 63; shift += 7) {
        uint64_t byte = take_number(b, 1);
        if (byte < 128 || shift == 56) return x | byte << shift;
        x |= (byte & 127) << shift;
    }
    return x;
}
static float take_float(Bytes *b) {
    uint32_t bits = (uint32_t)take_number(b, 4);
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static int is_factor(float x) { return x > 0 && x <= 3.4028234e38f; }
static uint32_t float_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static uint32_t crc32_of(const uint8_t *p, uint64_t n) {
    uint32_t table[256], c = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    while (n--) c = c >> 8 ^ table[(c ^ *p++) & 255];
    return ~c;
}

/* ---- random numbers: philox4x64-10, and the values drawn from its words ---- */
typedef struct { unsigned kind; uint64_t seed, stream; float factor; uint64_t block, out[4]; int ready; } Stream;

static uint64_t high_product(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 Wide;
    return (uint64_t)((Wide)a * b >> 64);
#else
    uint64_t al = a & 0xFFFFFFFFu, ah = a >> 32, bl = b & 0xFFFFFFFFu, bh = b >> 32;
    uint64_t middle = ah * bl + (al * bl >> 32), other = al * bh + (middle & 0xFFFFFFFFu);
    return ah * bh + (middle >> 32) + (other >> 32);
#endif
}
static uint32_t word(Stream *s, uint64_t i) {
    if (!s->ready || s->block != i / 8) {
        uint64_t c[4] = {i / 8, 0, 0, 0}, k0 = s->seed, k1 = s->stream;
        for (int round = 0; round < 10; round++) {
            uint64_t a = c[0] * 0xD2E7470EE14C6C93u, ah = high_product(c[0], 0xD2E7470EE14C6C93u);
            uint64_t b = c[2] * 0xCA5A826395121157u, bh = high_product(c[2], 0xCA5A826395121157u);
            c[0] = bh ^ c[1] ^ k0; c[1] = b; c[2] = ah ^ c[3] ^ k1; c[3] = a;
            k0 += 0x9E3779B97F4A7C15u; k1 += 0xBB67AE8584CAA73Bu;
        }
        memcpy(s->out, c, sizeof c);
        s->block = i / 8; s->ready = 1;
    }
    return (uint32_t)(s->out[i % 8 / 2] >> 32 * (i & 1));
}
/* Every operation rounds separately: `volatile` keeps the compiler from fusing two. */
static double polynomial(double x, const double *c) {
    volatile double r = x * c[5];
    for (int i = 4; i > 0; i--) { r = r + c[i]; r = r * x; }
    return r + c[0];
}
/* Whether a kind is drawn from a stream: the values of a bank, or the starts that predict the choices. */
static int is_drawn(unsigned kind) { return kind <= 3; }
static float drawn(Stream *s, uint64_t i) {
    static const double P[6] = {1.1962880337002204, -3.3922830094802627, 3.5608779313962153,
                                -1.6615431721671727, 0.31450800748164864, -0.01377182059877555};
    static const double Q[6] = {1.0, -3.0741910682352245, 3.590377483968184,
                                -1.9518323382480098, 0.47596295891769586, -0.03827905123521575};
    uint32_t w = word(s, i);
    float x = (float)(int32_t)(w >> 8) * (1.0f / 16777216);
    if (s->kind == 0) x = 2 * x - 1; /* exact */
    if (s->kind == 2) {
        volatile double t = (double)(w >> 8) * (1.0 / 8388608), square, y;
        t = t - (1.0 - 1.0 / 16777216);
        square = t * t;
        y = polynomial(square, P) / polynomial(square, Q);
        x = (float)(y * t);
    }
    if (s->kind == 3) x = w >> 31 ? 1.0f : -1.0f;
    return s->factor == 1 ? x : x * s->factor;
}
static uint32_t mix(uint32_t x) {
    x ^= x >> 16; x *= 0x21F0AAADu; x ^= x >> 15; x *= 0xD35A2D97u;
    return x ^ x >> 15;
}

/* ---- the values of a kernel ---- */
typedef struct {
    unsigned kind, bits;
    int shared, rounded;
    uint32_t k, key0, key1;          /* keys of the hash of stratified values */
    const uint8_t *given;
    Stream stream;
} Values;

static void values_at(Values *v, uint64_t connection, float *out) {
    uint64_t c = v->shared ? 0 : connection;
    int bits = v->kind == 6 ? (int)v->bits - 1 : 23;
    for (uint64_t span = 1; span < v->k; span *= 2) bits--;
    if (bits > 16) bits = 16;
    for (uint32_t k = 0; k < v->k; k++) {
        float x;
        if (v->kind == 5) {
            uint32_t raw = (uint32_t)number(v->given + 4 * (uint64_t)k, 4);
            memcpy(&x, &raw, 4);
        } else if (v->kind == 4 || v->kind == 6) {
            uint32_t state = mix((uint32_t)c + v->key0) ^ v->key1;
            uint32_t hash = mix(state ^ k / 2 * 0x9E3779B9u), half = k & 1 ? hash >> 16 : hash & 0xFFFF;
            int32_t place = (int32_t)((half >> (16 - bits)) + (k << bits)), size = (int32_t)(v->k << bits);
            x = (float)(v->kind == 6 ? 2 * place - size + 1 : place - size / 2) * v->stream.factor;
        } else x = drawn(&v->stream, c * v->k + k);
        if (v->rounded) { /* to the nearest bfloat16, ties to even */
            uint32_t b = float_bits(x);
            b = (b + 0x7FFF + (b >> 16 & 1)) & 0xFFFF0000u;
            memcpy(&x, &b, 4);
        }
        out[k] = x;
    }
}
static int64_t to_integer(double x, double scale) {
    x *= scale;
    return (int64_t)(x > 16777216 ? 16777216 : x < -16777216 ? -16777216 : x);
}

/* ---- steps of a connection: step m to larger values is at index m, to smaller ones at k - 1 - m ---- */
#define NEVER ((int64_t)1 << 40)
typedef struct { uint32_t begin, right, left; } Stairs;
typedef struct { int64_t value, score; uint32_t k; } Line;

static int by_value(const void *a, const void *b) {
    const Line *x = a, *y = b;
    return x->value != y->value ? (x->value > y->value) - (x->value < y->value) : (x->k > y->k) - (x->k < y->k);
}
static Stairs hull(Line *lines, uint32_t k, uint16_t *step, int64_t *far) {
    Stairs s = {0, 0, 0};
    for (uint32_t i = 1; i < k; i++) if (lines[i].score > lines[s.begin].score) s.begin = i;
    for (int side = 0; side < 2; side++) {
        uint32_t at = s.begin, *count = side ? &s.left : &s.right;
        for (;;) {
            uint32_t best = at;
            int64_t gained = 0, lost = 1;
            for (uint32_t i = 0; i < k; i++) {
                int64_t gain = side ? lines[at].value - lines[i].value : lines[i].value - lines[at].value;
                int64_t loss = lines[at].score - lines[i].score;
                if (loss < 1) loss = 1;
                if (gain * lost > gained * loss) { best = i; gained = gain; lost = loss; }
            }
            if (best == at) break;
            uint32_t place = side ? k - 1 - *count : *count;
            int64_t t = lost * 65536 / gained;
            step[place] = (uint16_t)best;
            far[place] = t < 1 ? 1 : t;
            ++*count;
            at = best;
        }
    }
    return s;
}
static Stairs nearest(Line *lines, uint32_t k, int64_t target, uint16_t *step, int64_t *far) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < k; i++)
        if (lines[i].value < lines[i - 1].value) { qsort(lines, k, sizeof *lines, by_value); break; }
    while (at + 1 < k && lines[at].value + lines[at + 1].value < 2 * target) at++;
    Stairs s = {lines[at].k, k - 1 - at, at};
    for (uint32_t m = 0; m < s.right; m++) {
        int64_t t = lines[at + m].value + lines[at + m + 1].value - 2 * target;
        step[m] = (uint16_t)lines[at + m + 1].k;
        far[m] = t < 1 ? 1 : t;
    }
    for (uint32_t m = 0; m < s.left; m++) {
        int64_t t = 2 * target - lines[at - m].value - lines[at - m - 1].value;
        step[k - 1 - m] = (uint16_t)lines[at - m - 1].k;
        far[k - 1 - m] = t < 1 ? 1 : t;
    }
    return s;
}

/* ---- the coder: interleaved rANS with adaptive counts ---- */
#define CONTEXTS (4 * 96 * 12)
typedef struct { uint32_t lanes, state[512]; Bytes words; int64_t ones[CONTEXTS], all[CONTEXTS]; } Coder;

static int decide(Coder *c, uint32_t lane, int64_t p) {
    uint32_t x = c->state[lane], low = x & 4095, bit = low < (uint32_t)p;
    x = bit ? (uint32_t)p * (x >> 12) + low : (4096 - (uint32_t)p) * (x >> 12) + low - (uint32_t)p;
    if (x < 65536) x = x << 16 | (uint32_t)take_number(&c->words, 2);
    c->state[lane] = x;
    return (int)bit;
}
static int size_class(int64_t x) { /* exponent and highest mantissa bit of an IEEE double: exact below 2^53 */
    double wide = (double)x;
    uint64_t bits;
    memcpy(&bits, &wide, 8);
    return (int)(bits >> 51) - 2046;
}
static int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static int least(int a, int b) { return a < b ? a : b; }
static int context_of(int kind, int64_t gap, int activity) {
    int size = size_class(gap > 0 ? gap : gap < 0 ? -gap : 1);
    return (kind * 96 + (gap > 0 ? 32 + least(size, 63) : 31 - least(size / 2, 31))) * 12 + activity;
}

typedef struct {
    unsigned form, offsets, active;
    uint32_t width, group, offset[2], kept;
    double scale, gain;
    Stream start;
    int64_t *levers, *moves;         /* of the last `kept` rows */
    float *value;                    /* of the group: K for each connection */
    uint16_t *step;
    int64_t *far, *expected, *low, *high;
    int *found, *activity, *context;
    uint8_t *bit;
    uint32_t *where;
    Stairs *stairs;
    Line *lines;
} Group;

static void make_stairs(Group *g, Values *v, uint64_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float *value = g->value + (uint64_t)i * v->k;
        uint16_t *step = g->step + (uint64_t)i * v->k;
        int64_t *far = g->far + (uint64_t)i * v->k;
        values_at(v, first + i, value);
        for (uint32_t k = 0; k < v->k; k++) {
            g->lines[k].value = to_integer(value[k], g->scale);
            g->lines[k].k = k;
            if (g->form == 2) g->lines[k].score = to_integer(drawn(&g->start, (first + i) * v->k + k), 8388608);
        }
        int64_t target = g->form == 3 && g->gain != 0 ? to_integer(drawn(&g->start, first + i) * g->gain, 1) : 0;
        g->stairs[i] = g->form == 2 ? hull(g->lines, v->k, step, far) : nearest(g->lines, v->k, target, step, far);
    }
}
static void expect(Group *g, uint64_t row, uint32_t rows) {
    for (uint32_t i = 0, n = 0; n < rows; n++) {
        const int64_t *old[2];
        int64_t moves = 0, count = 0;
        for (unsigned o = 0; o < g->offsets; o++) {
            if (row + n < g->offset[o]) continue;
            uint64_t before = (row + n - g->offset[o]) % g->kept;
            old[count++] = g->levers + before * g->width;
            moves += g->moves[before];
        }
        int64_t share = count ? moves * 256 / (count * g->width) : 0;
        int activity = size_class(share < 1 ? 1 : share) - 8;
        for (uint32_t j = 0; j < g->width; j++, i++) {
            int64_t total = (count > 0 ? old[0][j] : 0) + (count > 1 ? old[1][j] : 0);
            g->expected[i] = floor_divide(7 * total, count > 1 ? 16 : 8);
            g->activity[i] = activity < 0 ? 0 : least(activity, g->active ? 11 : 0);
            g->low[i] = -NEVER; g->high[i] = NEVER; g->found[i] = 0;
        }
    }
}
static void decode_group(Group *g, Coder *c, uint32_t k, uint32_t n) {
    for (int side = 0; side < 2; side++) {
        int sign = side ? -1 : 1;
        uint32_t left = 0;
        for (uint32_t i = 0; i < n; i++) if (!g->found[i]) g->where[left++] = i;
        for (uint32_t m = 0; left; m++) {
            uint32_t asked = 0, gone = 0;
            for (uint32_t q = 0; q < left; q++) {
                Stairs *s = g->stairs + g->where[q];
                if (m < (side ? s->left : s->right)) g->where[asked++] = g->where[q];
            }
            for (uint32_t q = 0; q < asked; q++) {
                uint32_t i = g->where[q];
                int64_t far = g->far[(uint64_t)i * k + (side ? k - 1 - m : m)];
                int x = context_of(2 * side + (m > 0), far - sign * g->expected[i], g->activity[i]);
                int64_t p = c->ones[x] * 4096 / c->all[x];
                g->context[q] = x;
                g->bit[q] = (uint8_t)decide(c, q % c->lanes, p < 1 ? 1 : p > 4095 ? 4095 : p);
            }
            for (uint32_t q = 0; q < asked; q++) {
                c->ones[g->context[q]] += 2 * g->bit[q];
                c->all[g->context[q]] += 2;
            }
            for (uint32_t q = 0; q < asked; q++) {
                int x = g->context[q], shift = size_class(c->all[x]) / 2 - 10;
                if (shift > 0) { c->ones[x] >>= shift; c->all[x] >>= shift; }
                uint32_t i = g->where[q];
                int64_t far = sign * g->far[(uint64_t)i * k + (side ? k - 1 - m : m)];
                *(g->bit[q] == side ? &g->high[i] : &g->low[i]) = far;
                if (g->bit[q]) { g->found[i] = sign * (int)(m + 1); g->where[gone++] = i; }
            }
            left = gone;
        }
    }
}
static void finish_group(Group *g, uint32_t k, uint64_t row, uint32_t rows, float *out) {
    for (uint32_t i = 0, n = 0; n < rows; n++) {
        uint64_t r = (row + n) % g->kept;
        g->moves[r] = 0;
        for (uint32_t j = 0; j < g->width; j++, i++) {
            int64_t lever = g->expected[i] < g->low[i] ? g->low[i] : g->expected[i];
            g->levers[r * g->width + j] = lever > g->high[i] ? g->high[i] : lever;
            g->moves[r] += abs(g->found[i]);
            uint64_t base = (uint64_t)i * k;
            uint32_t chosen = g->found[i] > 0   ? g->step[base + (uint32_t)g->found[i] - 1]
                              : g->found[i] < 0 ? g->step[base + k - (uint32_t)-g->found[i]]
                                                : g->stairs[i].begin;
            out[i] = g->value[base + chosen];
        }
    }
}

static Status decode_rows(Group *g, Coder *c, Values *v, uint64_t rows, float *out) {
    for (uint64_t row = 0; row < rows; row += g->group) {
        uint32_t count = (uint32_t)(rows - row < g->group ? rows - row : g->group), n = count * g->width;
        make_stairs(g, v, row * g->width, n);
        expect(g, row, count);
        decode_group(g, c, v->k, n);
        finish_group(g, v->k, row, count, out + row * g->width);
        if (c->words.bad) return DAMAGED;
    }
    for (uint32_t i = 0; i < c->lanes; i++) if (c->state[i] != 65536) return DAMAGED;
    return c->words.left ? DAMAGED : OK;
}
/* Where connections start: `first` says how, and the rest is read. */
static Status take_start(Bytes *b, Group *g, Values *v, unsigned first) {
    int exponent = (int)(int8_t)take_number(b, 1);
    for (g->scale = 1; exponent > 0; exponent--) g->scale *= 2;
    for (; exponent < 0; exponent++) g->scale /= 2;
    g->start.factor = 1;
    if (!first && g->form == 3) return OK;
    g->start.kind = (first & 127) - 1;
    if (!is_drawn(g->start.kind)) return DAMAGED;
    g->start.seed = first & 128 ? take_varint(b) : v->stream.seed;
    g->start.stream = g->form == 3 ? 4 : 1;
    if (g->form != 3) return OK;
    g->start.factor = take_float(b);
    uint64_t share = take_varint(b);
    g->gain = (double)share / 256 * g->scale;
    return share > 1024 || !is_factor(g->start.factor) ? DAMAGED : OK;
}
static Status decode_coded(Bytes *b, Values *v, Weight *w, float *out) {
    Group g = {0};
    Coder *c = calloc(1, sizeof *c);
    g.form = w->form;
    unsigned first = (unsigned)take_number(b, 1), how = (unsigned)take_number(b, 1), lanes = first & 15;
    uint64_t width = take_varint(b), group = take_varint(b);
    g.offsets = first >> 4 & 3;
    g.active = first >> 6 & 1;
    Status status = !c ? NO_MEMORY : DAMAGED;
    if (!c || b->bad || first > 127 || g.offsets > 2 || lanes > 9 || !width || !group) goto done;
    if (width > w->count || group > w->count || w->count % width) goto done;
    g.width = (uint32_t)width; g.group = (uint32_t)group;
    uint64_t rows = w->count / g.width, size = (uint64_t)g.group * g.width;
    if (v->k < 2 || v->k > 256 || w->count > UINT32_MAX || (uint64_t)g.width * v->k > 1 << 24) goto done;
    if ((g.group > 1 && size * v->k > 1 << 18) || (uint64_t)1 << lanes > size) goto done;
    g.kept = g.group;
    for (unsigned i = 0; i < g.offsets; i++) {
        uint64_t offset = take_varint(b);
        if (offset < g.group || offset >= rows) goto done;
        g.offset[i] = (uint32_t)offset;
        if (g.offset[i] + g.group > g.kept) g.kept = g.offset[i] + g.group;
    }
    if (take_start(b, &g, v, how) != OK) goto done;
    uint64_t lost = take_varint(b);
    if (b->bad || lost > b->left / 6) goto done;
    uint64_t words = (b->left - 6 * lost) / 2;
    if ((b->left - 6 * lost) % 2 || w->count > 65536 * words || words < 2u << lanes) goto done;
    const uint8_t *lost_at = take(b, 4 * lost), *lost_choice = take(b, 2 * lost);
    c->lanes = 1u << lanes;
    c->words = *b;
    for (uint32_t i = 0; i < c->lanes; i++) c->state[i] = (uint32_t)take_number(&c->words, 4);
    for (int i = 0; i < CONTEXTS; i++) { c->ones[i] = 1; c->all[i] = 3; }
    g.levers = calloc((size_t)g.kept * g.width, sizeof *g.levers);
    g.moves = calloc(g.kept, sizeof *g.moves);
    g.value = malloc(size * v->k * sizeof *g.value);
    g.step = malloc(size * v->k * sizeof *g.step);
    g.far = malloc(size * v->k * sizeof *g.far);
    g.expected = malloc(3 * size * sizeof *g.expected);
    g.found = malloc(3 * size * sizeof *g.found);
    g.bit = malloc(size);
    g.where = malloc(size * sizeof *g.where);
    g.stairs = malloc(size * sizeof *g.stairs);
    g.lines = malloc(v->k * sizeof *g.lines);
    if (!g.levers || !g.moves || !g.value || !g.step || !g.far || !g.expected || !g.found || !g.bit || !g.where ||
        !g.stairs || !g.lines) { status = NO_MEMORY; goto done; }
    g.low = g.expected + size; g.high = g.low + size;
    g.activity = g.found + size; g.context = g.activity + size;
    status = decode_rows(&g, c, v, rows, out);
    for (uint64_t i = 0, last = 0; i < lost && status == OK; i++) { /* single choices, which no step leads to */
        uint64_t at = number(lost_at + 4 * i, 4), choice = number(lost_choice + 2 * i, 2);
        if (at >= w->count || choice >= v->k || (i && at <= last)) { status = DAMAGED; break; }
        values_at(v, last = at, g.value);
        out[at] = g.value[choice];
    }
done:
    free(c); free(g.levers); free(g.moves); free(g.value); free(g.step); free(g.far); free(g.expected);
    free(g.found); free(g.bit); free(g.where); free(g.stairs); free(g.lines);
    return status;
}
static Status decode_packed(Bytes *b, Values *v, Weight *w, float *out) {
    unsigned bits = 0;
    while ((uint32_t)1 << bits < v->k) bits++;
    uint64_t total = w->count * bits;
    if (v->k < 2 || b->left != (total + 7) / 8) return DAMAGED;
    if (total % 8 && b->at[b->left - 1] >> total % 8) return DAMAGED;
    float *row = malloc(v->k * sizeof *row);
    Status status = row ? OK : NO_MEMORY;
    for (uint64_t i = 0; i < w->count && status == OK; i++) {
        uint32_t k = 0;
        for (unsigned j = 0; j < bits; j++) k |= (uint32_t)(b->at[(i * bits + j) / 8] >> (i * bits + j) % 8 & 1) << j;
        if (k >= v->k) { status = DAMAGED; break; }
        values_at(v, i, row);
        out[i] = row[k];
    }
    free(row);
    return status;
}
static Status decode_choices(Bytes *b, Weight *w) {
    Values v = {0};
    unsigned first = (unsigned)take_number(b, 1);
    uint64_t k = take_varint(b) + 1;
    v.kind = first & 15; v.shared = first >> 4 & 1; v.rounded = first >> 5 & 1;
    if (b->bad || v.kind > 6 || first > 63 || !k || k > 65536) return DAMAGED;
    v.k = (uint32_t)k;
    v.stream.kind = v.kind;
    if (v.kind != 5) {
        v.stream.factor = take_float(b);
        v.stream.seed = take_varint(b);
        if (b->bad || !is_factor(v.stream.factor)) return DAMAGED;
        Stream keys = {0, v.stream.seed, 5, 1, 0, {0}, 0};
        v.key0 = word(&keys, 0); v.key1 = word(&keys, 1);
    }
    if (v.kind == 6) {
        v.bits = (unsigned)take_number(b, 1);
        if (v.bits < 4 || v.bits > 16 || v.k > (uint32_t)1 << (v.bits - 1)) return DAMAGED;
    }
    if (v.kind == 5) {
        if (!v.shared || b->left < 4 * (uint64_t)v.k) return DAMAGED;
        v.given = take(b, 4 * (uint64_t)v.k);
        for (uint32_t k = 0; k < v.k; k++) /* finite: the exponent is not all ones */
            if ((number(v.given + 4 * (uint64_t)k, 4) & 0x7F800000u) == 0x7F800000u) return DAMAGED;
    }
    uint32_t checksum = (uint32_t)take_number(b, 2);
    if (b->bad || !w->count || (w->dtype != 0 && w->dtype != 1 && w->dtype != 3)) return DAMAGED;
    w->bytes = 4 * w->count;
    if (w->form == 1 ? w->count > 8 * b->left : w->count / 32768 > b->left) return DAMAGED;
    float *out = malloc(w->bytes);
    if (!out) return NO_MEMORY;
    Status status = w->form == 1 ? decode_packed(b, &v, w, out) : decode_coded(b, &v, w, out);
    w->data = (uint8_t *)out;
    for (uint64_t i = 0; i < w->count && status == OK; i++) {
        uint32_t x = float_bits(out[i]);
        for (int j = 0; j < 4; j++) w->data[4 * i + j] = (uint8_t)(x >> 8 * j);
    }
    return status == OK && (crc32_of(w->data, w->bytes) & 0xFFFF) != checksum ? DAMAGED : status;
}

/* ---- the file ---- */
static Status read_weight(Bytes *file, Weight *w, int decode) {
    unsigned first = (unsigned)take_number(file, 1), other = first >> 6;
    w->form = first & 3;
    w->axes = first >> 2 & 15;
    w->dtype = other ? (unsigned)take_number(file, 1) : 0;
    if (file->bad || other > 1 || w->dtype > 12 || w->axes > 8) return DAMAGED;
    w->count = 1;
    int empty = 0;
    for (unsigned i = 0; i < w->axes; i++) {
        uint64_t size = take_varint(file);
        if (size > UINT32_MAX) return DAMAGED;
        w->shape[i] = (uint32_t)size;
        if (!size) { empty = 1; continue; }
        if (w->count > (UINT64_C(1) << 32) / w->shape[i]) return DAMAGED;
        w->count *= w->shape[i];
    }
    if (empty) w->count = 0;
    w->bytes = w->count * (w->form ? 4 : item_size[w->dtype]);
    uint64_t length = w->form ? take_varint(file) : w->bytes;
    Bytes b = {file->at, length, 0};
    take(file, length);
    if (file->bad) return DAMAGED;
    if (!decode) return OK;
    if (w->form) return decode_choices(&b, w);
    w->data = malloc(w->bytes ? w->bytes : 1);
    if (!w->data) return NO_MEMORY;
    memcpy(w->data, b.at, w->bytes);
    return OK;
}
static void slots_free(Slots *s) {
    for (uint32_t i = 0; i < s->count; i++) free(s->weights[i].data);
    free(s->weights);
    memset(s, 0, sizeof *s);
}
/* Reads the bytes of a file. Call `slots_free` on the result, whatever the status is. */
static Status slots_read(const uint8_t *bytes, uint64_t size, int decode, Slots *s) {
    static const uint8_t magic[8] = {0x89, 'S', 'L', 'O', 'T', 'S', '\r', '\n'};
    memset(s, 0, sizeof *s);
    if (!size || memcmp(bytes, magic, size < 8 ? size : 8)) return FOREIGN;
    if (size < 16) return TRUNCATED;
    Bytes b = {bytes + 8, size - 12, 0};
    if (take_number(&b, 1) != 2) return OTHER_VERSION;
    if (crc32_of(bytes, size - 4) != number(bytes + size - 4, 4)) return CHECKSUM;
    uint64_t count = take_varint(&b), packed = take_varint(&b), unpacked = take_varint(&b), total = 0;
    if (b.bad) return DAMAGED;
    if (count > 1 << 16 || packed > 1 << 24 || unpacked > 1 << 26) return TOO_LARGE;
    take(&b, packed); /* the architecture, for Keras */
    s->weights = calloc(count ? count : 1, sizeof *s->weights);
    if (!s->weights) return NO_MEMORY;
    s->count = (uint32_t)count;
    Bytes records = b;
    for (int pass = 0; pass <= (decode != 0); pass++) { /* the first pass checks all sizes before anything is allocated */
        b = records;
        for (uint32_t i = 0; i < count; i++) {
            Status status = read_weight(&b, s->weights + i, pass);
            if (status != OK) return status;
            if (!pass && (total += s->weights[i].bytes) > MOST_BYTES) return TOO_LARGE;
        }
        if (b.left) return DAMAGED;
    }
    return OK;
}
static Status slots_open(const char *path, int decode, Slots *s) {
    memset(s, 0, sizeof *s);
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (file && !fseek(file, 0, SEEK_END)) size = ftell(file);
    uint8_t *bytes = size < 0 ? NULL : malloc(size ? (size_t)size : 1);
    Status status = size < 0 ? CANNOT_READ : !bytes ? NO_MEMORY : OK;
    if (status == OK && (fseek(file, 0, SEEK_SET) || fread(bytes, 1, (size_t)size, file) != (size_t)size))
        status = CANNOT_READ;
    if (status == OK) status = slots_read(bytes, (uint64_t)size, decode, s);
    if (file) fclose(file);
    free(bytes);
    return status;
}

#ifndef SLOTS_NO_MAIN
static const char *const said[] = {"", "cannot write", "usage: slots FILE [FOLDER]", "cannot read the file",
    "not a .slots file", "the file is truncated", "the file has another format version: get a newer reader",
    "the checksum of the file differs: bytes are missing or changed", "the file exceeds the limits of this reader", "the file is damaged",
    "not enough memory"};

int main(int argc, char **argv) {
    Slots s = {0};
    Status status = argc < 2 || argc > 3 ? USAGE : slots_open(argv[1], argc == 3, &s);
    for (uint32_t i = 0; i < s.count && status == OK; i++) {
        Weight *w = s.weights + i;
        printf("%u form=%u dtype=%u shape=", (unsigned)i, w->form, w->dtype);
        for (unsigned a = 0; a < w->axes; a++) printf(a ? ",%u" : "%u", (unsigned)w->shape[a]);
        printf("\n");
        if (argc < 3) continue;
        char path[4096];
        int length = snprintf(path, sizeof path, "%s/%u.bin", argv[2], (unsigned)i);
        FILE *file = length > 0 && length < (int)sizeof path ? fopen(path, "wb") : NULL;
        if (!file || fwrite(w->data, 1, w->bytes, file) != w->bytes) status = FAILED;
        if (file && fclose(file)) status = FAILED;
    }
    if (status != OK) fprintf(stderr, "slots: %s\n", said[status]);
    slots_free(&s);
    return (int)status;
}
#endif
