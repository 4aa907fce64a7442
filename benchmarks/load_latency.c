/* load_latency.c - how long operations took: 32 steps for each power of two, so a quantile is read within 3 %. */
#include "load.h"

static uint64_t latencies[64 * 32], latency_count, latency_max;

void note_latency(uint64_t ns) {
    int shift = ns < 64 ? 0 : 58 - __builtin_clzll(ns);
    latencies[shift * 32 + (ns >> shift)]++;
    latency_count++;
    if (ns > latency_max) latency_max = ns;
}

double latency_us(double quantile) {
    if (quantile >= 1) return (double)latency_max / 1e3;
    uint64_t seen = 0;
    for (int i = 0; i < 64 * 32; i++) {
        seen += latencies[i];
        if (seen > quantile * latency_count) {
            int shift = i < 64 ? 0 : i / 32 - 1;
            return (double)((uint64_t)(i - shift * 32) << shift) / 1e3;
        }
    }
    return 0;
}
