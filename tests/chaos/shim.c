/* What a process is preloaded with, so that a test can cut its power, fill its disk and set its clock.
 *
 * - It remembers each file's size at its last fsync or fdatasync, by inode, in a table that outlives the process. Whoever
 *   cuts the power kills the process and then cuts every file back to that size.
 * - While `full` is set in the control page, writes into files beneath CHAOS_FULL fail with ENOSPC.
 * - The wall clock is ahead by `offset_ns` of the control page.
 *
 * CHAOS_TABLE and CHAOS_CONTROL name the two files; they are made by the test, of the sizes below. It counts sizes only: what
 * was written over in place, and which name a file has, is taken to be on the disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 4096
struct slot { _Atomic uint64_t inode; _Atomic uint64_t size; };
struct control { _Atomic uint64_t full; _Atomic int64_t offset_ns; };

static struct slot *table;
static struct control *control;
static const char *full_below;

static void *mapped(const char *variable, size_t size) {
    const char *path = getenv(variable);
    if (!path) return NULL;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return NULL;
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    return found == MAP_FAILED ? NULL : found;
}

__attribute__((constructor)) static void begin(void) {
    table = mapped("CHAOS_TABLE", SLOTS * sizeof(struct slot));
    control = mapped("CHAOS_CONTROL", sizeof(struct control));
    full_below = getenv("CHAOS_FULL");
}

static void remember(uint64_t inode, uint64_t size) {
    if (!table) return;
    for (uint64_t probe = 0; probe < SLOTS; probe++) {
        struct slot *slot = &table[(inode + probe) % SLOTS];
        uint64_t none = 0;
        if (atomic_load(&slot->inode) == inode || atomic_compare_exchange_strong(&slot->inode, &none, inode)
            || none == inode) {
            atomic_store(&slot->size, size);
            return;
        }
    }
}

static int synced(int fd, int (*sync)(int)) {
    struct stat before;
    int known = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
    int failed = sync(fd);
    if (!failed && known) remember(before.st_ino, (uint64_t)before.st_size);
    return failed;
}

static int real_fsync(int fd) { return (int)syscall(SYS_fsync, fd); }
static int real_fdatasync(int fd) { return (int)syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

/* An inode that is used again begins with nothing on the disk. */
static int opened(int fd, int flags) {
    struct stat now;
    if (fd >= 0 && (flags & (O_CREAT | O_TRUNC)) && fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && now.st_size == 0) {
        int kept = errno;
        remember(now.st_ino, 0);
        errno = kept;
    }
    return fd;
}

#define OPENED(AT, PATH, FLAGS)                                                   \
    mode_t mode = 0;                                                              \
    if ((FLAGS) & (O_CREAT | O_TMPFILE)) {                                        \
        va_list rest;                                                             \
        va_start(rest, FLAGS);                                                    \
        mode = (mode_t)va_arg(rest, int);                                         \
        va_end(rest);                                                             \
    }                                                                             \
    return opened((int)syscall(SYS_openat, AT, PATH, (FLAGS) | O_LARGEFILE, mode), FLAGS)

int open(const char *path, int flags, ...) { OPENED(AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { OPENED(AT_FDCWD, path, flags); }
int openat(int at, const char *path, int flags, ...) { OPENED(at, path, flags); }
int openat64(int at, const char *path, int flags, ...) { OPENED(at, path, flags); }

static int is_full(int fd) {
    if (!control || !full_below || !atomic_load(&control->full)) return 0;
    char name[64], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, full_below, strlen(full_below)) == 0;
}

#define REFUSED(FD) if (is_full(FD)) { errno = ENOSPC; return -1; }
ssize_t write(int fd, const void *data, size_t count) { REFUSED(fd) return syscall(SYS_write, fd, data, count); }
ssize_t pwrite(int fd, const void *data, size_t count, off_t at) {
    REFUSED(fd) return syscall(SYS_pwrite64, fd, data, count, at);
}
ssize_t pwrite64(int fd, const void *data, size_t count, off_t at) {
    REFUSED(fd) return syscall(SYS_pwrite64, fd, data, count, at);
}

static int64_t ahead_ns(void) { return control ? atomic_load(&control->offset_ns) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = next(clock, now);
    int64_t ahead = ahead_ns();
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + ahead;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    if (!failed) { now->tv_sec = precise.tv_sec; now->tv_usec = precise.tv_nsec / 1000; }
    return failed;
}

time_t time(time_t *place) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (place) *place = precise.tv_sec;
    return precise.tv_sec;
}
