/* What main.c needs, on a computer. */
#include <stdint.h>
#include <stdio.h>

void print(const char *text, uint32_t number);
void start_counter(void);
uint32_t instructions(void);
uint32_t stack_bytes(void);

void print(const char *text, uint32_t number) { printf("%s: %lu\n", text, (unsigned long)number); }
void start_counter(void) { }
uint32_t instructions(void) { return 0; }
uint32_t stack_bytes(void) { return 0; }
