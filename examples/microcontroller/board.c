/* What main.c needs, on a Cortex-M: start, output through the debugger (semihosting), and a counter of instructions,
   which is exact under `qemu-system-arm -icount shift=0`, where an instruction takes one nanosecond. */
#include <stdint.h>

#define PAINT UINT32_C(0x5AFE5AFE)
#define SYSTICK ((volatile uint32_t *)0xE000E010) /* control, reload, value; counts down 24 bits */

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[];
int main(void);
void reset(void);
void fault(void);
void print(const char *text, uint32_t number);
void start_counter(void);
uint32_t instructions(void);
uint32_t stack_bytes(void);

static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {stack_top, {reset, fault, fault, fault, fault, fault}};

static int semihosting(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t status)
{
    uint32_t arguments[2] = {0x20026, status}; /* the application exits */
    semihosting(0x20, arguments);
    for (;;) { }
}

void fault(void)
{
    semihosting(0x04, "fault\n");
    leave(1);
}

void reset(void)
{
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= UINT32_C(0xF) << 20; /* switches the floating-point unit on */
    __asm__ volatile("dsb\n isb");
#endif
    const uint32_t *from = data_load;
    for (volatile uint32_t *to = data_start; to < data_end; to++) *to = *from++;
    for (volatile uint32_t *to = bss_start; to < bss_end; to++) *to = 0;
    uint32_t *here = __builtin_frame_address(0);
    for (volatile uint32_t *to = bss_end; to < here - 16; to++) *to = PAINT;
    leave((uint32_t)main());
}

void start_counter(void)
{
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
}

uint32_t instructions(void)
{
    return (uint32_t)((uint64_t)(0xFFFFFF - SYSTICK[2]) * 1000 / CLOCK_MHZ);
}

uint32_t stack_bytes(void)
{
    const uint32_t *low = bss_end;
    while (*low == PAINT) low++;
    return (uint32_t)((const char *)stack_top - (const char *)low);
}

void print(const char *text, uint32_t number)
{
    char digits[14];
    char *at = digits + sizeof digits;
    *--at = 0;
    *--at = '\n';
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    semihosting(0x04, text);
    semihosting(0x04, ": ");
    semihosting(0x04, at);
}
