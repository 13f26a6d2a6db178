/* The pretended GPUs of one machine: a file that everything with a GPU's memory maps.
 *
 * Only gpu.c knows the layout. What is kept: for each device its total and reserved bytes and its faults; for each
 * claim a process (PID and start time), a device and bytes. Bytes that a process gives back, or leaves by dying, stay
 * used but belong to no listed process ("lingering") until the release lag is over. That a process has died is noticed
 * whenever somebody looks, and its lag starts then.
 *
 * Functions return 0 or an errno value. Every one of them opens the file, holds an flock while it works, and closes it.
 */
#ifndef AITHER_TEST_GPU_H
#define AITHER_TEST_GPU_H

#include <stdint.h>
#include <sys/types.h>

#define GPU_FILE_VARIABLE "AITHER_TEST_NVML"
#define GPU_DEVICES 8
#define GPU_CLAIMS 512
#define GPU_NEVER UINT64_MAX

enum gpu_fault {               /* a set, of one device */
    GPU_HANG = 1,              /* memory info does not return until this is cleared; only SIGKILL ends it */
    GPU_NONSENSE = 2,          /* memory info says that more is used than there is */
    GPU_MEMORY_UNKNOWN = 4,    /* memory info: not supported, as on machines with unified memory */
    GPU_PROCESSES_UNKNOWN = 8, /* listing processes: not supported */
    GPU_BYTES_UNKNOWN = 16,    /* processes are listed without their bytes */
    GPU_LEAK = 32              /* bytes of the dead and the shrunk never come back */
};

enum gpu_field {          /* of one device, or with any device of the machine */
    GPU_TOTAL,            /* bytes */
    GPU_RESERVED,         /* bytes, of the driver */
    GPU_FAULTS,           /* set of gpu_fault */
    GPU_ERROR,            /* nvmlReturn_t with which every call about the device fails; 0 is none */
    GPU_POWER,            /* milliwatts */
    GPU_UTILIZATION,      /* percent */
    GPU_USED,             /* bytes of claims and of what lingers; read only */
    GPU_LINGERING,        /* bytes of what lingers; setting it to 0 gives them back at once */
    GPU_COUNT,            /* devices; read only */
    GPU_INIT_ERROR,       /* nvmlReturn_t with which nvmlInit and every call after it fails; 0 is none */
    GPU_LAG,              /* nanoseconds from giving back to being back */
    GPU_LOOKS             /* how often memory info was asked; read only */
};

enum gpu_claim_kind { GPU_COMPUTE = 1, GPU_GRAPHICS = 2, GPU_UNCHECKED = 4 /* with either: a PID that may not exist */ };

struct gpu_process {
    int32_t pid;
    uint32_t kind;
    uint64_t bytes;
};

/* Makes the file, readable and writable for everybody; `totals` has `count` numbers. */
int gpu_create(const char *path, uint32_t count, const uint64_t *totals, uint64_t reserved, const char *name, const char *driver);

int gpu_get(const char *path, uint32_t device, int field, uint64_t *value);
int gpu_set(const char *path, uint32_t device, int field, uint64_t value);

/* The UUID, name or driver version; buffers of 96 bytes. */
int gpu_text(const char *path, uint32_t device, char *uuid, char *name, char *driver);

/* Another driver is there now: processes that initialised before see a version mismatch. */
int gpu_change_driver(const char *path, const char *driver);

/* Says that `pid` holds exactly `bytes` on the device, 0 being none. ENOMEM when there is not enough free. */
int gpu_claim(const char *path, pid_t pid, uint32_t device, uint64_t bytes, uint32_t kind);

/* The listed processes; `count` is room on entry and number on return, ENOSPC when there are more. */
int gpu_processes(const char *path, uint32_t device, struct gpu_process *out, uint32_t *count);

/* The number that changes with the driver. */
int gpu_generation(const char *path, uint64_t *generation);

#endif
