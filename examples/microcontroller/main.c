/* Runs the network on the images that `examples/microcontroller.py` wrote, on a computer or on a microcontroller.
   The last line is a checksum of all outputs: it is the same wherever the program runs. */
#include "images.h"

int classify(const uint8_t *image, int32_t *output);

/* These are in host.c and in board.c. */
void print(const char *text, uint32_t number);
void start_counter(void);
uint32_t instructions(void); /* since then */
uint32_t stack_bytes(void);  /* used so far, at most */

int main(void)
{
    uint32_t right = 0, checksum = 0, most = 0;
    for (unsigned i = 0; i < IMAGES; i++) {
        int32_t output[CLASSES];
        start_counter();
        right += classify(images[i], output) == labels[i];
        uint32_t used = instructions();
        if (used > most) most = used;
        for (unsigned j = 0; j < CLASSES; j++) checksum = checksum * 31 + (uint32_t)output[j];
    }
    if (most) print("instructions for an image, at most", most);
    if (most) print("bytes of stack", stack_bytes());
    print("images", IMAGES);
    print("right", right);
    print("checksum", checksum);
    return 0;
}
