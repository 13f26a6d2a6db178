#include "gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x31555047726874aaULL
#define TEXT 96

struct device {
    char uuid[TEXT];
    uint64_t total, reserved, faults, error, power, utilization;
};

struct claim { /* free while `bytes` is 0; lingering while `pid` is 0 */
    int32_t pid;
    uint32_t device, kind, unused;
    uint64_t born;  /* start time of the process, which tells a reused PID; 0 when it could not be read */
    uint64_t bytes;
    uint64_t leaves; /* nanoseconds of CLOCK_MONOTONIC at which lingering bytes are back */
};

struct machine {
    uint64_t magic, count, init_error, lag, looks, generation;
    char name[TEXT], driver[TEXT];
    struct device devices[GPU_DEVICES];
    struct claim claims[GPU_CLAIMS];
};

struct open_machine {
    int fd;
    struct machine *m;
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Start time in clock ticks, 0 if it cannot be read; `state` is the letter in /proc/PID/stat. */
static uint64_t birth(pid_t pid, char *state) {
    char path[64], text[1024];
    unsigned long long born = 0;
    *state = '?';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *after = strrchr(text, ')');
    if (after == NULL)
        return 0;
    sscanf(after + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", state, &born);
    return born;
}

static int lives(const struct claim *c) {
    if (c->kind & GPU_UNCHECKED)
        return 1;
    /* Asked by signal first: it also works where /proc hides other users' processes. */
    if (kill(c->pid, 0) != 0 && errno == ESRCH)
        return 0;
    char state;
    uint64_t born = birth(c->pid, &state);
    return state != 'Z' && state != 'X' && (born == 0 || c->born == 0 || born == c->born);
}

static void linger(struct machine *m, struct claim *c) {
    c->pid = 0;
    c->leaves = m->devices[c->device].faults & GPU_LEAK ? GPU_NEVER : now() + m->lag;
}

static void settle(struct machine *m) {
    for (struct claim *c = m->claims; c < m->claims + GPU_CLAIMS; c++) {
        if (c->bytes == 0)
            continue;
        if (c->pid != 0 && !lives(c))
            linger(m, c);
        if (c->pid == 0 && c->leaves != GPU_NEVER && c->leaves <= now())
            memset(c, 0, sizeof *c);
    }
}

static int enter(const char *path, struct open_machine *o) {
    o->fd = open(path, O_RDWR | O_CLOEXEC);
    if (o->fd < 0)
        return errno;
    int failed = 0;
    struct stat is;
    if (flock(o->fd, LOCK_EX) != 0 || fstat(o->fd, &is) != 0)
        failed = errno;
    else if (is.st_size != sizeof(struct machine))
        failed = EPROTO;
    if (!failed) {
        o->m = mmap(NULL, sizeof(struct machine), PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
        if (o->m == MAP_FAILED)
            failed = errno;
        else if (o->m->magic != MAGIC) {
            munmap(o->m, sizeof(struct machine));
            failed = EPROTO;
        }
    }
    if (failed) {
        close(o->fd);
        return failed;
    }
    settle(o->m);
    return 0;
}

static int leave(struct open_machine *o, int result) {
    munmap(o->m, sizeof(struct machine));
    close(o->fd); /* gives up the lock too */
    return result;
}

static uint64_t sum(const struct machine *m, uint32_t device, int lingering_only) {
    uint64_t bytes = 0;
    for (const struct claim *c = m->claims; c < m->claims + GPU_CLAIMS; c++)
        if (c->bytes && c->device == device && (!lingering_only || c->pid == 0))
            bytes += c->bytes;
    return bytes;
}

static struct claim *unused_slot(struct machine *m) {
    for (struct claim *c = m->claims; c < m->claims + GPU_CLAIMS; c++)
        if (c->bytes == 0)
            return c;
    return NULL;
}

int gpu_create(const char *path, uint32_t count, const uint64_t *totals, uint64_t reserved, const char *name, const char *driver) {
    static struct machine fresh;
    if (count > GPU_DEVICES)
        return EINVAL;
    memset(&fresh, 0, sizeof fresh);
    fresh.magic = MAGIC;
    fresh.count = count;
    snprintf(fresh.name, TEXT, "%s", name);
    snprintf(fresh.driver, TEXT, "%s", driver);
    for (uint32_t i = 0; i < count; i++) {
        fresh.devices[i].total = totals[i];
        fresh.devices[i].reserved = reserved;
        fresh.devices[i].power = 20000;
        snprintf(fresh.devices[i].uuid, TEXT, "GPU-a17ebed0-0000-4000-8000-%012u", i);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno;
    int failed = fchmod(fd, 0666) != 0 || write(fd, &fresh, sizeof fresh) != sizeof fresh ? EIO : 0;
    close(fd);
    return failed;
}

static uint64_t *place(struct machine *m, uint32_t device, int field) {
    struct device *d = &m->devices[device];
    switch (field) {
    case GPU_TOTAL: return &d->total;
    case GPU_RESERVED: return &d->reserved;
    case GPU_FAULTS: return &d->faults;
    case GPU_ERROR: return &d->error;
    case GPU_POWER: return &d->power;
    case GPU_UTILIZATION: return &d->utilization;
    case GPU_COUNT: return &m->count;
    case GPU_INIT_ERROR: return &m->init_error;
    case GPU_LAG: return &m->lag;
    case GPU_LOOKS: return &m->looks;
    default: return NULL;
    }
}

int gpu_get(const char *path, uint32_t device, int field, uint64_t *value) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    if (device >= o.m->count)
        return leave(&o, ENODEV);
    uint64_t *at = place(o.m, device, field);
    if (at != NULL)
        *value = *at;
    else if (field == GPU_USED || field == GPU_LINGERING)
        *value = sum(o.m, device, field == GPU_LINGERING);
    else
        failed = EINVAL;
    return leave(&o, failed);
}

int gpu_set(const char *path, uint32_t device, int field, uint64_t value) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    if (device >= o.m->count)
        return leave(&o, ENODEV);
    uint64_t *at = place(o.m, device, field);
    if (field == GPU_LINGERING && value == 0) {
        for (struct claim *c = o.m->claims; c < o.m->claims + GPU_CLAIMS; c++)
            if (c->bytes && c->pid == 0 && c->device == device)
                memset(c, 0, sizeof *c);
    } else if (at == NULL || field == GPU_COUNT)
        failed = EINVAL;
    else
        *at = value;
    return leave(&o, failed);
}

int gpu_text(const char *path, uint32_t device, char *uuid, char *name, char *driver) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    if (device >= o.m->count)
        return leave(&o, ENODEV);
    memcpy(uuid, o.m->devices[device].uuid, TEXT);
    memcpy(name, o.m->name, TEXT);
    memcpy(driver, o.m->driver, TEXT);
    return leave(&o, 0);
}

int gpu_change_driver(const char *path, const char *driver) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    snprintf(o.m->driver, TEXT, "%s", driver);
    o.m->generation++;
    return leave(&o, 0);
}

int gpu_generation(const char *path, uint64_t *generation) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    *generation = o.m->generation;
    return leave(&o, 0);
}

int gpu_claim(const char *path, pid_t pid, uint32_t device, uint64_t bytes, uint32_t kind) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    if (device >= o.m->count || pid <= 0)
        return leave(&o, device >= o.m->count ? ENODEV : EINVAL);
    struct claim *mine = NULL;
    for (struct claim *c = o.m->claims; c < o.m->claims + GPU_CLAIMS; c++)
        if (c->bytes && c->pid == pid && c->device == device)
            mine = c;
    uint64_t had = mine == NULL ? 0 : mine->bytes;
    if (bytes < had) {
        /* What is given back lingers in a claim of its own. */
        struct claim *rest = bytes == 0 ? mine : unused_slot(o.m);
        if (rest == NULL)
            return leave(&o, ENOSPC);
        struct claim left = *mine;
        mine->bytes = bytes;
        left.bytes = had - bytes;
        *rest = left;
        linger(o.m, rest);
    } else if (bytes > had) {
        struct device *d = &o.m->devices[device];
        if (d->reserved + sum(o.m, device, 0) + (bytes - had) > d->total)
            return leave(&o, ENOMEM);
        if (mine == NULL && (mine = unused_slot(o.m)) == NULL)
            return leave(&o, ENOSPC);
        char state;
        *mine = (struct claim){.pid = pid, .device = device, .kind = kind, .bytes = bytes};
        mine->born = kind & GPU_UNCHECKED ? 0 : birth(pid, &state);
    }
    return leave(&o, 0);
}

int gpu_processes(const char *path, uint32_t device, struct gpu_process *out, uint32_t *count) {
    struct open_machine o;
    int failed = enter(path, &o);
    if (failed)
        return failed;
    uint32_t room = *count;
    *count = 0;
    for (struct claim *c = o.m->claims; c < o.m->claims + GPU_CLAIMS; c++) {
        if (c->bytes == 0 || c->pid == 0 || c->device != device)
            continue;
        if (*count < room)
            out[*count] = (struct gpu_process){.pid = c->pid, .kind = c->kind, .bytes = c->bytes};
        ++*count;
    }
    return leave(&o, *count > room ? ENOSPC : 0);
}
