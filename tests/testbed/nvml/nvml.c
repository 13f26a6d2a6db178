/* libnvidia-ml.so.1 without a GPU: the calls that a memory manager makes, answered from the file of gpu.h.
 *
 * Names, types and return values are those of NVIDIA's NVML reference; what pynvml does not call is left out.
 */
#include "gpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999
};

typedef int nvmlReturn_t;
typedef struct device {
    uint32_t index;
} *nvmlDevice_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
    unsigned int gpu, memory;
} nvmlUtilization_t;

#define MEMORY_V2 (sizeof(nvmlMemory_v2_t) | 2u << 24)
#define NO_INSTANCE 0xFFFFFFFFu

static struct device devices[GPU_DEVICES];
static int initialised;
static uint64_t generation;

static const char *file(void) {
    const char *path = getenv(GPU_FILE_VARIABLE);
    return path != NULL ? path : "";
}

static uint64_t get(uint32_t device, int field) {
    uint64_t value = 0;
    return gpu_get(file(), device, field, &value) == 0 ? value : 0;
}

/* What every call checks first. */
static nvmlReturn_t machine_state(void) {
    uint64_t current, error;
    if (gpu_generation(file(), &current) != 0 || gpu_get(file(), 0, GPU_INIT_ERROR, &error) != 0)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    if (error != 0)
        return (nvmlReturn_t)error;
    if (!initialised)
        generation = current;
    return current == generation ? NVML_SUCCESS : NVML_ERROR_LIB_RM_VERSION_MISMATCH;
}

static nvmlReturn_t check(nvmlDevice_t device) {
    if (!initialised)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t state = machine_state();
    if (state != NVML_SUCCESS || device == NULL)
        return state != NVML_SUCCESS ? state : NVML_ERROR_INVALID_ARGUMENT;
    return (nvmlReturn_t)get(device->index, GPU_ERROR);
}

static nvmlReturn_t put(char *out, unsigned int length, const char *text) {
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return snprintf(out, length, "%s", text) < (int)length ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    nvmlReturn_t state = machine_state();
    if (state == NVML_SUCCESS)
        initialised++;
    return state;
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void) {
    if (!initialised)
        return NVML_ERROR_UNINITIALIZED;
    initialised--;
    return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    char uuid[96], name[96], driver[96];
    if (!initialised)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t state = machine_state();
    if (state != NVML_SUCCESS)
        return state;
    return gpu_text(file(), 0, uuid, name, driver) != 0 ? NVML_ERROR_UNKNOWN : put(version, length, driver);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    return put(version, length, "13.580.0");
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    if (!initialised)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t state = machine_state();
    if (state == NVML_SUCCESS)
        *count = (unsigned int)get(0, GPU_COUNT);
    return state;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!initialised)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t state = machine_state();
    if (state != NVML_SUCCESS)
        return state;
    if (index >= get(0, GPU_COUNT))
        return NVML_ERROR_INVALID_ARGUMENT;
    devices[index].index = index;
    *device = &devices[index];
    return check(*device);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned int length) {
    char uuid[96], name[96], driver[96];
    nvmlReturn_t state = check(device);
    if (state != NVML_SUCCESS)
        return state;
    return gpu_text(file(), device->index, uuid, name, driver) != 0 ? NVML_ERROR_UNKNOWN : put(out, length, uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned int length) {
    char uuid[96], name[96], driver[96];
    nvmlReturn_t state = check(device);
    if (state != NVML_SUCCESS)
        return state;
    return gpu_text(file(), device->index, uuid, name, driver) != 0 ? NVML_ERROR_UNKNOWN : put(out, length, name);
}

/* As deep in a driver: no signal but SIGKILL gets through. */
static void hang(uint32_t device) {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    while (get(device, GPU_FAULTS) & GPU_HANG)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static nvmlReturn_t memory(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    nvmlReturn_t state = check(device);
    if (state != NVML_SUCCESS)
        return state;
    gpu_set(file(), 0, GPU_LOOKS, get(0, GPU_LOOKS) + 1);
    uint64_t faults = get(device->index, GPU_FAULTS);
    if (faults & GPU_HANG)
        hang(device->index);
    if (faults & GPU_MEMORY_UNKNOWN)
        return NVML_ERROR_NOT_SUPPORTED;
    out->total = get(device->index, GPU_TOTAL);
    out->reserved = get(device->index, GPU_RESERVED);
    out->used = faults & GPU_NONSENSE ? 2 * out->total : get(device->index, GPU_USED);
    out->free = out->total - out->reserved - out->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    if (out == NULL || out->version != MEMORY_V2)
        return out == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return memory(device, out);
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out) {
    nvmlMemory_v2_t full;
    nvmlReturn_t state = memory(device, &full);
    /* The first version counts what the driver reserves as used. */
    if (state == NVML_SUCCESS)
        *out = (nvmlMemory_t){.total = full.total, .free = full.free, .used = full.used + full.reserved};
    return state;
}

static nvmlReturn_t processes(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *out, uint32_t kind) {
    static struct gpu_process all[GPU_CLAIMS];
    uint32_t listed = GPU_CLAIMS, found = 0;
    nvmlReturn_t state = check(device);
    if (state != NVML_SUCCESS)
        return state;
    uint64_t faults = get(device->index, GPU_FAULTS);
    if (faults & GPU_PROCESSES_UNKNOWN)
        return NVML_ERROR_NOT_SUPPORTED;
    if (gpu_processes(file(), device->index, all, &listed) != 0)
        return NVML_ERROR_UNKNOWN;
    for (uint32_t i = 0; i < listed; i++) {
        if (!(all[i].kind & kind))
            continue;
        if (found < *count && out != NULL)
            out[found] = (nvmlProcessInfo_t){
                .pid = (unsigned int)all[i].pid,
                .usedGpuMemory = faults & GPU_BYTES_UNKNOWN ? ~0ULL : all[i].bytes,
                .gpuInstanceId = NO_INSTANCE,
                .computeInstanceId = NO_INSTANCE,
            };
        found++;
    }
    unsigned int room = out != NULL ? *count : 0;
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *out) {
    return processes(device, count, out, GPU_COMPUTE);
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *out) {
    return processes(device, count, out, GPU_GRAPHICS);
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    nvmlReturn_t state = check(device);
    if (state == NVML_SUCCESS)
        *milliwatts = (unsigned int)get(device->index, GPU_POWER);
    return state;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    nvmlReturn_t state = check(device);
    if (state == NVML_SUCCESS)
        *out = (nvmlUtilization_t){.gpu = (unsigned int)get(device->index, GPU_UTILIZATION)};
    return state;
}
