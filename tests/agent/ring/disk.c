/* What a program does to the files below $DISK_DIR: written down, and failed on demand. LD_PRELOAD.

   $DISK_LOG gets, for each operation, a header (op, file, offset, length; see disk.py) and the bytes
   written. $DISK_FAULT is a file of ints, mapped: how many operations may still succeed, the errno
   that the ones after fail with (0: none), and how many do (negative: all), which is counted down;
   how many milliseconds a flush takes; and the errno of whoever opens a file to write it. What the
   file does not have is 0.

   LMDB without MDB_WRITEMAP changes its data by write calls alone; its lock file is not recorded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, WRITE_SYNC, SYNC, LENGTH, UNLINK, RENAME };
#define FILES 4096

static const char *directory;
static int log_fd = -1;
static volatile int *fault;
static uint32_t ids[FILES];
static unsigned char synchronous[FILES];
static uint32_t next_id = 1;

#define REAL(type, name, ...)                                                  \
    static type (*real)(__VA_ARGS__);                                          \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t raw_writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return real(fd, parts, count);
}

static int raw_open(const char *path, int flags, mode_t mode) {
    REAL(int, "open", const char *, int, ...);
    return real(path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
    const char *path;
    directory = getenv("DISK_DIR");
    if ((path = getenv("DISK_LOG")) && directory)
        log_fd = raw_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if ((path = getenv("DISK_FAULT")) && directory) {
        int fd = raw_open(path, O_RDWR | O_CLOEXEC, 0);
        void *map = mmap(0, 5 * sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) fault = map;
    }
}

static int ours(const char *path) {
    return directory && !strncmp(path, directory, strlen(directory)) && !strstr(path, "lock.mdb");
}

static void note(uint8_t op, uint32_t file, uint64_t offset, const void *bytes, uint64_t length) {
    struct __attribute__((packed)) { uint8_t op; uint32_t file; uint64_t offset, length; } head =
        {op, file, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)bytes, bytes ? length : 0}};
    if (log_fd >= 0) raw_writev(log_fd, parts, bytes ? 2 : 1);
}

static int fails(void) {
    if (!fault || !fault[1]) return 0;
    if (fault[0] > 0) { fault[0]--; return 0; }
    if (!fault[2]) return 0;
    fault[2]--;
    return 1;
}

/* After LATE a call that fails has done its work all the same: a disk that says so too late. */
#define LATE 0x10000
#define FAIL(call)                                                             \
    do {                                                                       \
        int late = fault[1];                                                   \
        if (late & LATE) (void)!(call);                                        \
        errno = late & ~LATE;                                                  \
        return -1;                                                             \
    } while (0)

static void flush_slowly(void) {
    if (!fault || fault[3] <= 0) return;
    struct timespec left = {fault[3] / 1000, fault[3] % 1000 * 1000000L};
    nanosleep(&left, 0);
}

static int refused(const char *path, int flags) {
    if (!fault || !fault[4] || !(flags & (O_WRONLY | O_RDWR | O_CREAT)) || !ours(path)) return 0;
    errno = fault[4];
    return 1;
}

static int file(int fd) { return fd >= 0 && fd < FILES && ids[fd]; }

static void opened(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= FILES) return;
    ids[fd] = 0;
    if (!ours(path)) return;
    struct stat status;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) return;
    ids[fd] = next_id++;
    synchronous[fd] = (flags & O_DSYNC) != 0;
    note(OPEN, ids[fd], (flags & O_TRUNC) != 0, path, strlen(path));
}

#define OPEN_CALL(name)                                                        \
    int name(const char *path, int flags, ...) {                               \
        va_list rest; va_start(rest, flags);                                   \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; va_end(rest);\
        REAL(int, #name, const char *, int, ...);                              \
        if (refused(path, flags)) return -1;                                   \
        int fd = real(path, flags, mode);                                      \
        opened(fd, path, flags);                                               \
        return fd;                                                             \
    }
OPEN_CALL(open)
OPEN_CALL(open64)

#define OPENAT_CALL(name)                                                      \
    int name(int at, const char *path, int flags, ...) {                       \
        va_list rest; va_start(rest, flags);                                   \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; va_end(rest);\
        REAL(int, #name, int, const char *, int, ...);                         \
        if (refused(path, flags)) return -1;                                   \
        int fd = real(at, path, flags, mode);                                  \
        opened(fd, path, flags);                                               \
        return fd;                                                             \
    }
OPENAT_CALL(openat)
OPENAT_CALL(openat64)

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < FILES) ids[fd] = 0;
    return real(fd);
}

static void wrote(int fd, uint64_t offset, const void *bytes, ssize_t length) {
    if (length > 0) note(synchronous[fd] ? WRITE_SYNC : WRITE, ids[fd], offset, bytes, length);
}

#define PWRITE_CALL(name)                                                      \
    ssize_t name(int fd, const void *bytes, size_t length, off64_t offset) {   \
        REAL(ssize_t, #name, int, const void *, size_t, off64_t);              \
        if (file(fd) && fails()) FAIL(real(fd, bytes, length, offset));        \
        if (file(fd) && synchronous[fd]) flush_slowly();                       \
        ssize_t done = real(fd, bytes, length, offset);                        \
        if (file(fd)) wrote(fd, offset, bytes, done);                          \
        return done;                                                           \
    }
PWRITE_CALL(pwrite)
PWRITE_CALL(pwrite64)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!file(fd)) return real(fd, bytes, length);
    if (fails()) FAIL(real(fd, bytes, length));
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, bytes, length);
    wrote(fd, offset, bytes, done);
    return done;
}

static void wrote_parts(int fd, off64_t offset, const struct iovec *parts, int count) {
    for (int i = 0; i < count; offset += parts[i++].iov_len)
        wrote(fd, offset, parts[i].iov_base, parts[i].iov_len);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!file(fd)) return raw_writev(fd, parts, count);
    if (fails()) FAIL(raw_writev(fd, parts, count));
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = raw_writev(fd, parts, count);
    if (done > 0) wrote_parts(fd, offset, parts, count);
    return done;
}

#define PWRITEV_CALL(name)                                                     \
    ssize_t name(int fd, const struct iovec *parts, int count, off64_t offset) {\
        REAL(ssize_t, #name, int, const struct iovec *, int, off64_t);         \
        if (file(fd) && fails()) FAIL(real(fd, parts, count, offset));         \
        ssize_t done = real(fd, parts, count, offset);                         \
        if (file(fd) && done > 0) wrote_parts(fd, offset, parts, count);       \
        return done;                                                           \
    }
PWRITEV_CALL(pwritev)
PWRITEV_CALL(pwritev64)

#define SYNC_CALL(name)                                                        \
    int name(int fd) {                                                         \
        REAL(int, #name, int);                                                 \
        if (file(fd) && fails()) FAIL(real(fd));                               \
        if (file(fd)) flush_slowly();                                          \
        int result = real(fd);                                                 \
        if (file(fd) && !result) note(SYNC, ids[fd], 0, 0, 0);                 \
        return result;                                                         \
    }
SYNC_CALL(fsync)
SYNC_CALL(fdatasync)

#define LENGTH_CALL(name)                                                      \
    int name(int fd, off64_t length) {                                         \
        REAL(int, #name, int, off64_t);                                        \
        if (file(fd) && fails()) FAIL(real(fd, length));                       \
        int result = real(fd, length);                                         \
        if (file(fd) && !result) note(LENGTH, ids[fd], length, 0, 0);          \
        return result;                                                         \
    }
LENGTH_CALL(ftruncate)
LENGTH_CALL(ftruncate64)

#define ALLOCATE_CALL(name)                                                    \
    int name(int fd, off64_t offset, off64_t length) {                         \
        REAL(int, #name, int, off64_t, off64_t);                               \
        if (file(fd) && fails()) return fault[1] & ~LATE;                      \
        int result = real(fd, offset, length);                                 \
        if (file(fd) && !result) note(LENGTH, ids[fd], offset + length, 0, 0); \
        return result;                                                         \
    }
ALLOCATE_CALL(posix_fallocate)
ALLOCATE_CALL(posix_fallocate64)

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    int result = real(path);
    if (!result && ours(path)) note(UNLINK, 0, 0, path, strlen(path));
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    int result = real(from, to);
    if (!result && ours(from)) {
        char both[8192];
        size_t first = strlen(from) + 1, second = strlen(to);
        if (first + second <= sizeof both) {
            memcpy(both, from, first);
            memcpy(both + first, to, second);
            note(RENAME, 0, 0, both, first + second);
        }
    }
    return result;
}
