/* The network, in the one file that includes its header. */
#include "network.h"

int classify(const uint8_t *image, int32_t *output);

int classify(const uint8_t *image, int32_t *output)
{
    return network_predict(image, output);
}
