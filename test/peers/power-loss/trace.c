/*
 * Writes down, in order, everything that a process does to files below one folder: LD_PRELOAD it, name the folder in
 * TRACE_UNDER and the file for the trace in TRACE_TO. One record, appended by one write:
 *   u32 length of the rest | u8 kind | u64 offset or size | u32 length of path | path | data
 * Kinds: C created, D folder made, W written, T truncated, S synced, R renamed (data is the new path), U unlinked,
 * M mapped for writing (such writes cannot be seen). The reader adds A: acknowledged.
 * The call itself happens under the same lock, so the order here is the order there. TRACE_SYNC_US delays every sync: whoever
 * acknowledges without waiting for it is seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES_MAX 4096

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static struct {
  char *path;
  dev_t device;
  ino_t inode;
} files[FILES_MAX];
static char under[PATH_MAX];
static int trace = -1;
static useconds_t sync_us = 0;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (found == NULL) abort();
  return found;
}

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("TRACE_UNDER");
  const char *to = getenv("TRACE_TO");
  const char *delay = getenv("TRACE_SYNC_US");
  if (folder == NULL || to == NULL || strlen(folder) >= sizeof under) return;
  strcpy(under, folder);
  if (delay != NULL) sync_us = (useconds_t)atoi(delay);
  trace = REAL(open)(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (trace < 0) abort();
}

static void record(char kind, uint64_t number, const char *path, const void *data, size_t length) {
  uint32_t path_length = (uint32_t)strlen(path);
  uint32_t rest = (uint32_t)(1 + 8 + 4 + path_length + length);
  struct iovec parts[] = {
      {&rest, 4}, {&kind, 1}, {&number, 8}, {&path_length, 4}, {(void *)path, path_length}, {(void *)data, length},
  };
  ssize_t written = REAL(writev)(trace, parts, 6);
  if (written != (ssize_t)rest + 4) abort();
}

/* Below the folder, or the folder itself. */
static int is_ours(const char *path) {
  size_t length = strlen(under);
  return trace >= 0 && strncmp(path, under, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* As an absolute path; 0 where it cannot be told. */
static int absolute(int folder, const char *path, char *into) {
  if (path[0] == '/') return snprintf(into, PATH_MAX, "%s", path) < PATH_MAX;
  char base[PATH_MAX];
  if (folder == AT_FDCWD) {
    if (getcwd(base, sizeof base) == NULL) return 0;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
  }
  return snprintf(into, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

/* Not every close comes by (libuv makes the system call itself): the number may mean another file by now. */
static const char *path_of(int fd) {
  struct stat now;
  if (fd < 0 || fd >= FILES_MAX || files[fd].path == NULL) return NULL;
  if (fstat(fd, &now) == 0 && now.st_dev == files[fd].device && now.st_ino == files[fd].inode) return files[fd].path;
  return NULL;
}

static void remember(int fd, const char *path) {
  struct stat now;
  free(files[fd].path);
  files[fd].path = NULL;
  if (path == NULL || fstat(fd, &now) != 0) return;
  files[fd].device = now.st_dev;
  files[fd].inode = now.st_ino;
  files[fd].path = strdup(path);
}

static int open_any(int folder, const char *path, int flags, mode_t mode) {
  char whole[PATH_MAX];
  pthread_mutex_lock(&lock);
  int ours = trace >= 0 && absolute(folder, path, whole) && is_ours(whole);
  struct stat before;
  int was_there = ours && stat(whole, &before) == 0;
  int fd = REAL(openat)(folder, path, flags, mode);
  int error = errno;
  if (fd >= 0 && fd < FILES_MAX) {
    remember(fd, ours ? whole : NULL);
    if (ours && !was_there && (flags & O_CREAT)) record('C', 0, whole, NULL, 0);
    if (ours && was_there && (flags & O_TRUNC)) record('T', 0, whole, NULL, 0);
  } else if (fd >= 0 && ours) {
    abort();
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return fd;
}

#define MODE(flags)                                \
  mode_t mode = 0;                                 \
  if ((flags) & (O_CREAT | O_TMPFILE)) {           \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    mode = (mode_t)va_arg(rest, int);              \
    va_end(rest);                                  \
  }

int open(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_any(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_any(folder, path, flags | O_LARGEFILE, mode); }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
  if (path_of(fd) == NULL) return REAL(pwrite64)(fd, data, length, offset);
  pthread_mutex_lock(&lock);
  ssize_t done = REAL(pwrite64)(fd, data, length, offset);
  int error = errno;
  if (done > 0) record('W', (uint64_t)offset, path_of(fd), data, (size_t)done);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *data, size_t length) {
  if (path_of(fd) == NULL) return REAL(write)(fd, data, length);
  pthread_mutex_lock(&lock);
  off_t at = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
  ssize_t done = REAL(write)(fd, data, length);
  int error = errno;
  if (done > 0) record('W', (uint64_t)at, path_of(fd), data, (size_t)done);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (path_of(fd) == NULL) return REAL(writev)(fd, parts, count);
  ssize_t all = 0;
  for (int i = 0; i < count; i++) {
    ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (done < 0) return all > 0 ? all : -1;
    all += done;
    if ((size_t)done < parts[i].iov_len) break;
  }
  return all;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  if (path_of(fd) == NULL) return REAL(pwritev)(fd, parts, count, offset);
  ssize_t all = 0;
  for (int i = 0; i < count; i++) {
    ssize_t done = pwrite64(fd, parts[i].iov_base, parts[i].iov_len, offset + all);
    if (done < 0) return all > 0 ? all : -1;
    all += done;
    if ((size_t)done < parts[i].iov_len) break;
  }
  return all;
}

int ftruncate64(int fd, off64_t size) {
  if (path_of(fd) == NULL) return REAL(ftruncate64)(fd, size);
  pthread_mutex_lock(&lock);
  int result = REAL(ftruncate64)(fd, size);
  int error = errno;
  if (result == 0) record('T', (uint64_t)size, path_of(fd), NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

static int sync_any(int fd, int (*how)(int)) {
  if (path_of(fd) == NULL) return how(fd);
  if (sync_us > 0) usleep(sync_us);
  pthread_mutex_lock(&lock);
  int result = how(fd);
  int error = errno;
  if (result == 0) record('S', 0, path_of(fd), NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int fsync(int fd) { return sync_any(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_any(fd, REAL(fdatasync)); }

int rename(const char *from, const char *to) {
  char one[PATH_MAX], other[PATH_MAX];
  pthread_mutex_lock(&lock);
  int result = REAL(rename)(from, to);
  int error = errno;
  if (result == 0 && absolute(AT_FDCWD, from, one) && absolute(AT_FDCWD, to, other) && is_ours(other))
    record('R', 0, one, other, strlen(other));
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

static int unlink_any(int folder, const char *path, int flags) {
  char whole[PATH_MAX];
  pthread_mutex_lock(&lock);
  int ours = trace >= 0 && absolute(folder, path, whole) && is_ours(whole);
  int result = REAL(unlinkat)(folder, path, flags);
  int error = errno;
  if (result == 0 && ours && !(flags & AT_REMOVEDIR)) record('U', 0, whole, NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

int unlink(const char *path) { return unlink_any(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return unlink_any(folder, path, flags); }

int mkdir(const char *path, mode_t mode) {
  char whole[PATH_MAX];
  pthread_mutex_lock(&lock);
  int result = REAL(mkdir)(path, mode);
  int error = errno;
  if (result == 0 && trace >= 0 && absolute(AT_FDCWD, path, whole) && is_ours(whole)) record('D', 0, whole, NULL, 0);
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
  const char *path = path_of(fd);
  if (path != NULL && (protection & PROT_WRITE) && (flags & MAP_SHARED)) {
    pthread_mutex_lock(&lock);
    record('M', 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
  }
  return REAL(mmap64)(at, length, protection, flags, fd, offset);
}
