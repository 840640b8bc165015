/* Counts what a process does to files below a folder, and makes one of those operations fail.

   Loaded by LD_PRELOAD; `faults_arm` is called in the process that is to suffer. An operation is an
   opening for writing, a write, a rename, a removal, a new folder, a truncation or a sync. Files
   whose path holds `skip` do not count: threads that nobody waits for write them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FULL, TELL };  /* FULL: from the nth write on, the disk is full */

static int armed, mode, halve, number;
static long nth;
static atomic_long count, writes;
static char root[PATH_MAX], skip[256];

/* `half`: whether a write is halved first; of TELL, the number of the signal. */
void faults_arm(const char *below, const char *not_in, int what, long at, int half) {
    number = half;
    snprintf(root, sizeof root, "%s", below);
    snprintf(skip, sizeof skip, "%s", not_in);
    mode = what, nth = at, halve = half;
    atomic_store(&count, 0);
    atomic_store(&writes, 0);
    armed = 1;
}

/* A command that is started as it is by everybody: FAULTS_AT is "number of a signal:nth", and
   FAULTS_BELOW the folder. That the signal was sent is told by a file beside that folder. */
__attribute__((constructor)) static void arm_a_command(void) {
    char *at = getenv("FAULTS_AT"), *below = getenv("FAULTS_BELOW");
    long n;
    if (at == NULL || below == NULL || sscanf(at, "%d:%ld", &number, &n) != 2) return;
    faults_arm(below, "/tensorboard/", TELL, n, number);
    unsetenv("FAULTS_AT");  /* its children do as they like */
}

static void tell(void) {
    char file[PATH_MAX + 8];
    snprintf(file, sizeof file, "%s.told", root);
    armed = 0;
    close(open(file, O_WRONLY | O_CREAT, 0666));
    kill(getpid(), number);
}

long faults_count(void) { return atomic_load(&count); }
long faults_writes(void) { return atomic_load(&writes); }

static int below(const char *path) {
    size_t n = strlen(root);
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0) &&
           !(skip[0] && strstr(path, skip));
}

static int concerns(int dir, const char *path) {
    char whole[2 * PATH_MAX], here[PATH_MAX], link[64];
    if (!armed || path == NULL) return 0;
    if (path[0] == '/') return below(path);
    if (dir == AT_FDCWD) {
        if (getcwd(here, sizeof here) == NULL) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, here, sizeof here - 1);
        if (n < 0) return 0;
        here[n] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    return below(whole);
}

static int holds(int fd) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Before every operation: one that is to be killed does not happen. */
static void step(void) {
    if (atomic_fetch_add(&count, 1) + 1 != nth) return;
    if (mode == KILL) die();
    if (mode == TELL) tell();
}

/* Before a write: 1 where it is to be halved first, 2 where the disk is full. */
static int write_step(void) {
    long w = atomic_fetch_add(&writes, 1) + 1;
    long c = atomic_fetch_add(&count, 1) + 1;
    if (mode == KILL && c == nth) {
        if (halve) return 1;
        die();
    }
    if (mode == TELL && c == nth) tell();
    return mode == FULL && w >= nth ? 2 : 0;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define WRITING (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t m = va_arg(more, int); va_end(more); \
        if ((flags & WRITING) && concerns(AT_FDCWD, path)) step(); \
        return real(path, flags, m); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int dir, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t m = va_arg(more, int); va_end(more); \
        if ((flags & WRITING) && concerns(dir, path)) step(); \
        return real(dir, path, flags, m); }
OPENAT(openat)
OPENAT(openat64)

#define OPEN2(name) \
    int name(const char *path, int flags) { \
        REAL(int, #name, const char *, int); \
        if ((flags & WRITING) && concerns(AT_FDCWD, path)) step(); \
        return real(path, flags); }
OPEN2(__open_2)
OPEN2(__open64_2)

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(FILE *, #name, const char *, const char *); \
        if (strpbrk(how, "wa+") && concerns(AT_FDCWD, path)) step(); \
        return real(path, how); }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (holds(fd)) {
        int what = write_step();
        if (what == 1) { real(fd, data, n / 2); die(); }
        if (what == 2) { errno = ENOSPC; return -1; }
    }
    return real(fd, data, n);
}

#define PWRITE(name, off) \
    ssize_t name(int fd, const void *data, size_t n, off at) { \
        REAL(ssize_t, #name, int, const void *, size_t, off); \
        if (holds(fd)) { \
            int what = write_step(); \
            if (what == 1) { real(fd, data, n / 2, at); die(); } \
            if (what == 2) { errno = ENOSPC; return -1; } \
        } \
        return real(fd, data, n, at); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (holds(fd)) {
        int what = write_step();
        if (what == 1) { real(fd, parts, n / 2); die(); }
        if (what == 2) { errno = ENOSPC; return -1; }
    }
    return real(fd, parts, n);
}

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    if (armed && holds(fileno(file))) {
        int what = write_step();
        if (what == 1) { real(data, size, n / 2, file); fflush(file); die(); }
        if (what == 2) { errno = ENOSPC; return 0; }
    }
    return real(data, size, n, file);
}

#define ONE(type, name) \
    int name(type path) { \
        REAL(int, #name, type); \
        if (concerns(AT_FDCWD, path)) step(); \
        return real(path); }
ONE(const char *, unlink)
ONE(const char *, rmdir)
ONE(const char *, remove)

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (concerns(dir, path)) step();
    return real(dir, path, flags);
}

int mkdir(const char *path, mode_t m) {
    REAL(int, "mkdir", const char *, mode_t);
    if (concerns(AT_FDCWD, path)) step();
    return real(path, m);
}

int mkdirat(int dir, const char *path, mode_t m) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    if (concerns(dir, path)) step();
    return real(dir, path, m);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (concerns(AT_FDCWD, from) || concerns(AT_FDCWD, to)) step();
    return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    if (concerns(a, from) || concerns(b, to)) step();
    return real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    if (concerns(a, from) || concerns(b, to)) step();
    return real(a, from, b, to, flags);
}

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        if (holds(fd)) step(); \
        return real(fd); }
SYNC(fsync)
SYNC(fdatasync)

#define CUT(name, off) \
    int name(int fd, off length) { \
        REAL(int, #name, int, off); \
        if (holds(fd)) step(); \
        return real(fd, length); }
CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)
