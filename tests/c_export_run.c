/* Runs the network of a header `net.h` on the inputs of a file, and writes the class and the outputs of each. */
#include <stdio.h>
#include "net.h"

#ifdef NET_INPUT_SCALE
typedef int32_t output_value;
#else
typedef float output_value;
#endif

int main(int argc, char **argv)
{
    static net_value input[NET_INPUTS];
    static output_value output[NET_OUTPUTS];
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL, *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (!in || !out) return 1;
    while (fread(input, sizeof input, 1, in)) {
        int32_t number = net_predict(input, output);
        if (fwrite(&number, sizeof number, 1, out) != 1 || fwrite(output, sizeof output, 1, out) != 1) return 1;
    }
    return fclose(in) || fclose(out);
}
