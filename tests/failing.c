/* Preloaded into a process, fails calls on files below one folder as a broken, full or read-only disk would.
 *
 * What fails, and how many calls of each kind there were in all processes, stands in a page of memory that they share: the file
 * named by AGENTKD_FAILING. `failing.py` has the same page and says what each field is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, WRITE, FSYNC, RENAME, UNLINK, MKDIR, NUM_KINDS };

struct page {
    atomic_int is_armed;
    int kinds;   /* a bit for each kind that fails */
    int number;  /* errno */
    int lasts;   /* whether all after the nth fail too */
    int nth;     /* from 1, among all calls of these kinds; 0: none fails */
    atomic_int num_calls;
    atomic_int num_failed;
    atomic_int counts[NUM_KINDS];
    atomic_int num_new; /* files that were opened and not there before */
    char root[512];
    char first[512]; /* what failed first: the kind's number and the path */
};

static struct page *page;

__attribute__((constructor)) static void attach(void) {
    const char *name = getenv("AGENTKD_FAILING");
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int descriptor = name ? real(name, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0) return;
    void *found = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (found != MAP_FAILED) page = found;
}

static int is_below(const char *path) {
    size_t length = strlen(page->root);
    return length && !strncmp(path, page->root, length) && (path[length] == '/' || !path[length]);
}

/* Whether this call is to fail, with errno set. */
static int fails(enum kind kind, const char *path) {
    if (!is_below(path)) return 0;
    atomic_fetch_add(&page->counts[kind], 1);
    if (!(page->kinds >> kind & 1)) return 0;
    int nth = atomic_fetch_add(&page->num_calls, 1) + 1;
    if (!page->nth || (page->lasts ? nth < page->nth : nth != page->nth)) return 0;
    if (!atomic_fetch_add(&page->num_failed, 1)) snprintf(page->first, sizeof page->first, "%d %s", kind, path);
    errno = page->number;
    return 1;
}

static int path_of(int descriptor, char *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, found, PATH_MAX - 1);
    if (length < 0) return 0;
    found[length] = 0;
    return 1;
}

static int is_armed(void) { return page && atomic_load(&page->is_armed); }

static int whole_path(int folder, const char *path, char *whole) {
    char within[PATH_MAX];
    int kept = errno, is_known = 1;
    if (path[0] == '/') {
        snprintf(whole, 2 * PATH_MAX, "%s", path);
    } else {
        is_known = folder == AT_FDCWD ? getcwd(within, sizeof within) != NULL : path_of(folder, within);
        if (is_known) snprintf(whole, 2 * PATH_MAX, "%s/%s", within, path);
    }
    errno = kept;
    return is_known;
}

static int fails_at(enum kind kind, int folder, const char *path) {
    char whole[2 * PATH_MAX];
    return is_armed() && path && whole_path(folder, path, whole) && fails(kind, whole);
}

static int fails_of(enum kind kind, int descriptor) {
    char path[PATH_MAX];
    int kept = errno;
    if (!is_armed()) return 0;
    int is_known = path_of(descriptor, path);
    errno = kept;
    return is_known && fails(kind, path);
}

/* A full or read-only disk lets what is there be read. */
static int open_fails(int folder, const char *path, int flags) {
    if (!is_armed() || !path) return 0;
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
    int kept = errno, is_new = flags & O_CREAT && faccessat(folder, path, F_OK, 0);
    errno = kept;
    char whole[2 * PATH_MAX];
    if (is_new && whole_path(folder, path, whole) && is_below(whole)) atomic_fetch_add(&page->num_new, 1);
    if (page->number == EROFS && !writes) return 0;
    if (page->number == ENOSPC && !is_new) return 0;
    return fails_at(OPEN, folder, path);
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { REAL(open); MODE return open_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE return open_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { REAL(openat); MODE return open_fails(folder, path, flags) ? -1 : real(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { REAL(openat64); MODE return open_fails(folder, path, flags) ? -1 : real(folder, path, flags, mode); }

ssize_t write(int file, const void *data, size_t size) { REAL(write); return fails_of(WRITE, file) ? -1 : real(file, data, size); }
ssize_t writev(int file, const struct iovec *data, int count) { REAL(writev); return fails_of(WRITE, file) ? -1 : real(file, data, count); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { REAL(pwrite); return fails_of(WRITE, file) ? -1 : real(file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { REAL(pwrite64); return fails_of(WRITE, file) ? -1 : real(file, data, size, at); }
int ftruncate(int file, off_t size) { REAL(ftruncate); return fails_of(WRITE, file) ? -1 : real(file, size); }
int ftruncate64(int file, off64_t size) { REAL(ftruncate64); return fails_of(WRITE, file) ? -1 : real(file, size); }

int fsync(int file) { REAL(fsync); return fails_of(FSYNC, file) ? -1 : real(file); }
int fdatasync(int file) { REAL(fdatasync); return fails_of(FSYNC, file) ? -1 : real(file); }

int rename(const char *old, const char *path) { REAL(rename); return fails_at(RENAME, AT_FDCWD, path) ? -1 : real(old, path); }
int renameat(int from, const char *old, int to, const char *path) { REAL(renameat); return fails_at(RENAME, to, path) ? -1 : real(from, old, to, path); }
int renameat2(int from, const char *old, int to, const char *path, unsigned flags) { REAL(renameat2); return fails_at(RENAME, to, path) ? -1 : real(from, old, to, path, flags); }

int link(const char *old, const char *path) { REAL(link); return fails_at(RENAME, AT_FDCWD, path) ? -1 : real(old, path); }
int linkat(int from, const char *old, int to, const char *path, int flags) { REAL(linkat); return fails_at(RENAME, to, path) ? -1 : real(from, old, to, path, flags); }

int unlink(const char *path) { REAL(unlink); return fails_at(UNLINK, AT_FDCWD, path) ? -1 : real(path); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); return fails_at(UNLINK, folder, path) ? -1 : real(folder, path, flags); }
int rmdir(const char *path) { REAL(rmdir); return fails_at(UNLINK, AT_FDCWD, path) ? -1 : real(path); }

int mkdir(const char *path, mode_t mode) { REAL(mkdir); return fails_at(MKDIR, AT_FDCWD, path) ? -1 : real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); return fails_at(MKDIR, folder, path) ? -1 : real(folder, path, mode); }
