/* with-vram BYTES [--after SECONDS] [--] COMMAND…: becomes COMMAND, holding device memory in the test library's file.
 *
 * BYTES is a number with a unit (`5.2GiB`, `300MiB`), shared evenly among the devices that CUDA_VISIBLE_DEVICES names
 * (indexes or UUIDs; unset is the first device, empty is none). SECONDS (`0.3s`) pass before the memory is taken, as
 * in an engine that reads its weights first. Where there is not enough, it ends as an engine does: a line on stderr,
 * status 1. Without the test library's file in the environment it only becomes COMMAND.
 */
#include "gpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static void refuse(const char *what, const char *text) {
    fprintf(stderr, "with-vram: %s: %s\n", what, text);
    exit(2);
}

static uint64_t bytes_of(const char *text) {
    static const struct { const char *unit; double factor; } units[] = {
        {"GiB", 1024.0 * 1024 * 1024}, {"MiB", 1024.0 * 1024}, {"KiB", 1024}, {"GB", 1e9}, {"MB", 1e6}, {"B", 1}, {"", 1},
    };
    char *end;
    double number = strtod(text, &end);
    while (*end == ' ')
        end++;
    for (size_t i = 0; end != text && number >= 0 && i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0)
            return (uint64_t)(number * units[i].factor);
    refuse("not a number of bytes", text);
    return 0;
}

static void pass(const char *text) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || seconds < 0 || (strcmp(end, "") != 0 && strcmp(end, "s") != 0))
        refuse("not a number of seconds", text);
    struct timespec left = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

/* The devices that this process may use; returns how many. */
static uint32_t visible(const char *file, uint32_t *out) {
    const char *chosen = getenv("CUDA_VISIBLE_DEVICES");
    uint64_t count = 0;
    if (gpu_get(file, 0, GPU_COUNT, &count) != 0)
        refuse("not a file of the test library", file);
    if (chosen == NULL) {
        out[0] = 0;
        return count > 0;
    }
    char list[1024];
    uint32_t found = 0;
    snprintf(list, sizeof list, "%s", chosen);
    for (char *word = strtok(list, ","); word != NULL && found < GPU_DEVICES; word = strtok(NULL, ",")) {
        char uuid[96], name[96], driver[96], *end;
        unsigned long index = strtoul(word, &end, 10);
        for (uint32_t i = 0; *end != 0 && i < count; i++)
            if (gpu_text(file, i, uuid, name, driver) == 0 && strcasecmp(uuid, word) == 0) {
                index = i;
                end = "";
            }
        if (*end != 0 || index >= count)
            refuse("no such device", word);
        out[found++] = (uint32_t)index;
    }
    return found;
}

int main(int argc, char **argv) {
    int at = 2;
    if (argc < 3)
        refuse("usage", "with-vram BYTES [--after SECONDS] [--] COMMAND…");
    uint64_t bytes = bytes_of(argv[1]);
    if (at + 1 < argc && strcmp(argv[at], "--after") == 0) {
        pass(argv[at + 1]);
        at += 2;
    }
    if (at < argc && strcmp(argv[at], "--") == 0)
        at++;
    if (at >= argc)
        refuse("no command after", argv[argc - 1]);
    const char *file = getenv(GPU_FILE_VARIABLE);
    if (file != NULL) {
        uint32_t devices[GPU_DEVICES];
        uint32_t count = visible(file, devices);
        for (uint32_t i = 0; i < count; i++) {
            int failed = gpu_claim(file, getpid(), devices[i], bytes / count, GPU_COMPUTE);
            if (failed) {
                fprintf(stderr, "CUDA error: %s: allocating %llu bytes on device %u\n",
                        failed == ENOMEM ? "out of memory" : strerror(failed), (unsigned long long)(bytes / count), devices[i]);
                return 1;
            }
        }
    }
    execvp(argv[at], argv + at);
    refuse(strerror(errno), argv[at]);
}
