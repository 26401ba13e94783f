/* Reads thousands of changed copies of a .slots file, with sizes and checksums made right again, so that the damage
   gets as far as it can. For the sanitizers. Usage: slots_fuzz FILE COUNT SEED; prints how often each status came. */
#define SLOTS_NO_MAIN
#define MOST_BYTES (UINT64_C(1) << 18)
#include "../reader/slots.c"

static uint32_t state;
static uint32_t any(uint32_t below) {
    state ^= state << 13; state ^= state >> 17; state ^= state << 5;
    return state % below;
}
static void put(uint8_t *p, uint64_t x, int n) { while (n--) { *p++ = (uint8_t)x; x >>= 8; } }

int main(int argc, char **argv) {
    static const uint8_t edges[8] = {0, 1, 2, 127, 128, 254, 255, 64};
    uint8_t original[65536], copy[65536];
    unsigned long seen[16] = {0};
    FILE *file = argc == 4 ? fopen(argv[1], "rb") : NULL;
    (void)slots_open;
    size_t size = file ? fread(original, 1, sizeof original, file) : 0;
    if (file) fclose(file);
    if (size < 64) return 1;
    long count = atol(argv[2]);
    state = (uint32_t)atol(argv[3]) | 1;
    for (long i = 0; i < count; i++) {
        size_t length = any(8) ? size : any((uint32_t)size + 1);
        memcpy(copy, original, length);
        for (uint32_t changes = any(4); changes < 4 && length > 12; changes++) {
            size_t at = any(3) ? 8 + any((uint32_t)length - 8) : 8 + any(28 < length - 8 ? 28 : (uint32_t)length - 8);
            copy[at] = any(2) ? edges[any(8)] : copy[at] ^ (uint8_t)(1 << any(8));
        }
        if (length >= 16 && any(16)) {
            put(copy + length - 4, crc32_of(copy, length - 4), 4);
        }
        Slots s;
        uint8_t *exact = malloc(length ? length : 1); /* so that a sanitizer sees each byte beyond the end */
        if (!exact) return 1;
        memcpy(exact, copy, length);
        seen[slots_read(exact, length, 1, &s)]++;
        slots_free(&s);
        free(exact);
    }
    for (int i = 0; i < 11; i++) printf("%lu ", seen[i]);
    printf("\n");
    return 0;
}
