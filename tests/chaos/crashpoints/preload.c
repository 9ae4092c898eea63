/*
 * The faults of the crash-point sweep. Preloaded into a process, this library counts the calls that change a file, send to a
 * server or print, and breaks the n-th of them. strikes.py compiles it and gives its orders, struct control.
 *
 * A power cut ends every process at its next such call, and machine.py then gives the files back as they were last synced.
 * So fsync() and fdatasync() do not reach the disk here: they copy the file into a shadow directory.
 *
 *   CRASH_CONTROL  a file of struct control, shared by all processes
 *   CRASH_HOME     the directory whose files count, and lose at a power cut what was not synced
 *   CRASH_SHADOW   the directory of what was synced: inodes/ID holds contents, names/PATH is a symbolic link to an ID
 *   CRASH_TARGETS  the programs whose calls count, such as "gm-work gm-collect"; calls of gearmand count apart
 *   CRASH_BOOT     a file to read in place of the kernel's boot id
 *   CRASH_PLUG     a path that cuts the power when it is opened: for jobs that take their machine down
 *   CRASH_CLOCK    a file of a double, the seconds by which the wall clock is wrong; it does without the others
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

enum kind { KILL = 1, KILL_HALF, KILL_GROUP, FAIL, SHORT, POWER };   /* as in strikes.py */
enum side { NONE = -1, OURS, SERVER };
enum call { WRITE, SYNC, CHANGE };   /* CHANGE: truncate, unlink, rename */

struct control {                     /* as strikes.CONTROL */
    int side, kind, error, times;
    long at;                         /* the first call to break, from 1; 0: none */
    atomic_long count[2];
    atomic_int off, struck;
    char where[160];                 /* the first broken call */
};

struct order { int error, half, die; };

static struct control *control;
static enum side side = NONE;
static const volatile double *wrong;   /* by how many seconds the wall clock is */
static char program[32], home[PATH_MAX], shadow[PATH_MAX], boot[PATH_MAX], plug[PATH_MAX];

static void set(char *to, const char *name, size_t size)
{
    const char *value = getenv(name);

    snprintf(to, size, "%s", value ? value : "");
}

/* Set program: the first of the leading words of the command line that names a tool or gearmand. */
static void name_program(void)
{
    char words[4096], *word, *base;
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
    ssize_t size = read(fd, words, sizeof words - 1);

    close(fd);
    words[size > 0 ? size : 0] = 0;
    word = words;
    for (int i = 0; i < 3 && word < words + size; i++, word += strlen(word) + 1) {
        base = strrchr(word, '/') ? strrchr(word, '/') + 1 : word;
        if (!strncmp(base, "gm-", 3) || !strcmp(base, "gearmand")) {
            snprintf(program, sizeof program, "%s", base);
            return;
        }
    }
}

/* The page of the file that a variable names; NULL where there is none. */
static void *shared(const char *name, size_t size)
{
    const char *file = getenv(name);
    int fd = file ? syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

__attribute__((constructor)) static void begin(void)
{
    const char *targets = getenv("CRASH_TARGETS");
    void *page = shared("CRASH_CONTROL", sizeof *control);
    char list[512], wanted[40];

    wrong = shared("CRASH_CLOCK", sizeof *wrong);
    if (!page)
        return;
    set(home, "CRASH_HOME", sizeof home);
    set(shadow, "CRASH_SHADOW", sizeof shadow);
    set(boot, "CRASH_BOOT", sizeof boot);
    set(plug, "CRASH_PLUG", sizeof plug);
    name_program();
    snprintf(list, sizeof list, " %s ", targets ? targets : "");
    snprintf(wanted, sizeof wanted, " %s ", program);
    if (!strcmp(program, "gearmand"))
        side = SERVER;
    else if (*program && strstr(list, wanted))
        side = OURS;
    control = page;
}

__attribute__((noreturn)) static void die(void)
{
    kill(control->kind == KILL_GROUP && !control->off ? 0 : getpid(), SIGKILL);
    for (;;)
        pause();
}

__attribute__((noreturn)) static void cut_power(void)
{
    control->off = 1;
    die();
}

/* The path of an open file below home, relative to home; NULL for any other. The path "" is home itself. */
static const char *file_of(int fd, char path[PATH_MAX])
{
    char link[64];
    ssize_t size;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, PATH_MAX - 1);
    path[size > 0 ? size : 0] = 0;
    size = strlen(home);
    if (strncmp(path, home, size) || (path[size] && path[size] != '/'))
        return NULL;
    return path + size + (path[size] == '/');
}

static int is_tcp(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;

    return !getsockname(fd, (struct sockaddr *)&address, &size)
        && (address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

/* Count a call, and order what is done to it. Does not return where the process dies at once. */
static struct order judge(enum call call, const char *name, const char *file, int fd)
{
    struct order order = {0, 0, 0};
    int socket = 0;
    long number;

    if (!control)
        return order;
    if (control->off)
        die();
    if (side == NONE)
        return order;
    if (!file && fd > 2)
        socket = is_tcp(fd);
    if (!file && !socket && fd != 1)
        return order;
    number = atomic_fetch_add(&control->count[side], 1) + 1;
    if (!control->at || number < control->at || side != (enum side)control->side || control->struck >= control->times)
        return order;
    if (call != WRITE && (control->kind == SHORT || control->kind == KILL_HALF))
        return order;   /* the next write will do */
    if (atomic_fetch_add(&control->struck, 1) >= control->times)
        return order;
    if (!*control->where)
        snprintf(control->where, sizeof control->where, "%s: %s %s", program, name, file ? file : socket ? "socket" : "stdout");
    switch ((enum kind)control->kind) {
    case KILL: case KILL_GROUP:
        die();
    case POWER:
        cut_power();
    case KILL_HALF:
        order.half = order.die = 1;
        break;
    case SHORT:
        order.half = 1;
        break;
    case FAIL:
        order.error = socket ? ECONNRESET : call == SYNC || !strcmp(name, "unlink") ? EIO : control->error;
        if (socket)
            shutdown(fd, SHUT_RDWR);
    }
    return order;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

/* ---- what was synced */

static void shadow_path(char path[PATH_MAX], const char *kind, const char *name)
{
    char *at = path + snprintf(path, PATH_MAX, "%s/%s/", shadow, kind);

    snprintf(at, path + PATH_MAX - at, "%s", name);
    for (; *at; at++)
        if (*at == '/')
            *at = '%';
}

/* Let the synced directory have a name: an inode's, or no more where id is NULL. */
static void put_name(const char *file, const char *id)
{
    char path[PATH_MAX];

    shadow_path(path, "names", file);
    syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (id && symlink(id, path))
        abort();
}

/* An inode's name among the shadows. The time of birth keeps a number that is used again apart. */
static void inode_id(int fd, const char *path, char id[64])
{
    struct statx found;

    if (statx(fd, path, *path ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &found))
        abort();
    snprintf(id, 64, "%llu.%lld.%u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
             found.stx_btime.tv_nsec);
}

static void copy_file(int from, int to)
{
    char block[1 << 16];
    off_t at = 0;
    ssize_t size;

    while ((size = pread(from, block, sizeof block, at)) > 0) {
        if (syscall(SYS_write, to, block, size) != size)
            abort();
        at += size;
    }
}

/* Nothing of ours may close a file that SQLite has open: POSIX drops all its locks then. So fd itself is read. */
static void sync_file(int fd, const char *path, const char *file)
{
    char id[64], to[PATH_MAX], whole[PATH_MAX];
    int reading = fd, writing;

    inode_id(fd, "", id);
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
        reading = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    shadow_path(to, "inodes", "new");
    writing = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    copy_file(reading, writing);
    close(writing);
    if (reading != fd)
        close(reading);
    shadow_path(whole, "inodes", id);
    if (syscall(SYS_renameat2, AT_FDCWD, to, AT_FDCWD, whole, 0))
        abort();
    if (!access(path, F_OK))
        put_name(file, id);
}

static void sync_directory(const char *path, const char *directory)
{
    char names[PATH_MAX], file[PATH_MAX], id[64];
    struct dirent *entry;
    DIR *open;

    snprintf(names, sizeof names, "%s/names", shadow);
    open = opendir(names);
    while (open && (entry = readdir(open))) {   /* what is gone */
        size_t size = strlen(directory);
        char *rest = entry->d_name + size + !!size;

        if (*entry->d_name == '.' || strncmp(entry->d_name, directory, size) || strchr(rest, '%'))
            continue;
        snprintf(file, sizeof file, "%s/%s", path, rest);
        if (access(file, F_OK))
            put_name(entry->d_name, NULL);
    }
    if (open)
        closedir(open);
    open = opendir(path);
    while (open && (entry = readdir(open))) {   /* what is there, synced itself or still empty */
        if (entry->d_type != DT_REG)
            continue;
        inode_id(dirfd(open), entry->d_name, id);
        snprintf(file, sizeof file, "%s%s%s", directory, *directory ? "/" : "", entry->d_name);
        put_name(file, id);
    }
    if (open)
        closedir(open);
}

static int synced(int fd, const char *name, int number)
{
    char path[PATH_MAX], lock[PATH_MAX];
    const char *file = file_of(fd, path);
    struct order order = judge(SYNC, name, file, fd);
    struct stat found;
    int held;

    if (order.error)
        return refuse(order.error);
    if (!control || !file)
        return syscall(number, fd);
    if (strstr(path, " (deleted)"))
        return 0;
    snprintf(lock, sizeof lock, "%s/lock", shadow);
    held = syscall(SYS_openat, AT_FDCWD, lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (flock(held, LOCK_EX) || fstat(fd, &found))
        abort();
    if (control->off)
        die();
    if (S_ISDIR(found.st_mode))
        sync_directory(path, file);
    else
        sync_file(fd, path, file);
    close(held);
    return 0;
}

int fsync(int fd)
{
    return synced(fd, "fsync", SYS_fsync);
}

int fdatasync(int fd)
{
    return synced(fd, "fdatasync", SYS_fdatasync);
}

/* ---- the calls that write; half of one passes on half of its bytes */

static struct order judge_write(const char *name, int fd, size_t *size)
{
    char path[PATH_MAX];
    struct order order = {0, 0, 0};

    if (control)
        order = judge(WRITE, name, side == NONE ? NULL : file_of(fd, path), fd);
    if (order.half && *size > 1)
        *size /= 2;
    return order;
}

#define WRITING(name, fd, size, call) do {                         \
        size_t all = size;                                         \
        struct order order = judge_write(name, fd, &all);          \
        ssize_t done;                                              \
        if (order.error)                                           \
            return refuse(order.error);                            \
        size = all;                                                \
        done = call;                                               \
        if (order.die)                                             \
            die();                                                 \
        return done;                                               \
    } while (0)

ssize_t write(int fd, const void *data, size_t size)
{
    WRITING("write", fd, size, syscall(SYS_write, fd, data, size));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    WRITING("pwrite", fd, size, syscall(SYS_pwrite64, fd, data, size, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    WRITING("pwrite", fd, size, syscall(SYS_pwrite64, fd, data, size, at));
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    WRITING("send", fd, size, syscall(SYS_sendto, fd, data, size, flags, NULL, 0));
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    WRITING("send", fd, size, syscall(SYS_sendto, fd, data, size, flags, to, length));
}

/* Of several buffers, half of the first one. */
ssize_t writev(int fd, const struct iovec *buffers, int count)
{
    size_t size = count > 0 ? buffers[0].iov_len : 0, whole = size;

    WRITING("writev", fd, size, size == whole ? syscall(SYS_writev, fd, buffers, count)
                                              : syscall(SYS_write, fd, buffers[0].iov_base, size));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    size_t size = message->msg_iovlen ? message->msg_iov[0].iov_len : 0, whole = size;

    WRITING("sendmsg", fd, size, size == whole ? syscall(SYS_sendmsg, fd, message, flags)
                                               : syscall(SYS_sendto, fd, message->msg_iov[0].iov_base, size, flags, NULL, 0));
}

/* ---- the calls that change a file or a directory otherwise */

int ftruncate(int fd, off_t size)
{
    char path[PATH_MAX];
    struct order order = judge(CHANGE, "ftruncate", control ? file_of(fd, path) : NULL, fd);

    return order.error ? refuse(order.error) : syscall(SYS_ftruncate, fd, size);
}

int ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}

/* The absolute form of a path is below home: relative to it, or NULL. */
static const char *below_home(int directory, const char *path, char whole[2 * PATH_MAX])
{
    char base[PATH_MAX] = "";
    size_t size = strlen(home);

    if (!control)
        return NULL;
    if (*path != '/') {
        if (directory == AT_FDCWD)
            getcwd(base, sizeof base);
        else
            file_of(directory, base);
    }
    snprintf(whole, 2 * PATH_MAX, "%s%s%s", base, *base ? "/" : "", path);
    return strncmp(whole, home, size) || whole[size] != '/' ? NULL : whole + size + 1;
}

int unlinkat(int directory, const char *path, int flags)
{
    char whole[2 * PATH_MAX];
    struct order order = judge(CHANGE, "unlink", below_home(directory, path, whole), -1);

    return order.error ? refuse(order.error) : syscall(SYS_unlinkat, directory, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int renameat(int directory, const char *path, int new_directory, const char *new_path)
{
    char whole[2 * PATH_MAX];
    struct order order = judge(CHANGE, "rename", below_home(new_directory, new_path, whole), -1);

    return order.error ? refuse(order.error) : syscall(SYS_renameat2, directory, path, new_directory, new_path, 0);
}

int rename(const char *path, const char *new_path)
{
    return renameat(AT_FDCWD, path, AT_FDCWD, new_path);
}

/* ---- the boot id, and the jobs that cut the power */

static int opened(int directory, const char *path, int flags, mode_t mode)
{
    if (control) {
        if (*plug && !strcmp(path, plug))
            cut_power();
        if (*boot && !strcmp(path, BOOT_ID))
            path = boot;
    }
    return syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE(flags, mode) do {                                 \
        if ((flags) & (O_CREAT | __O_TMPFILE)) {               \
            va_list rest;                                      \
            va_start(rest, flags);                             \
            mode = va_arg(rest, mode_t);                       \
            va_end(rest);                                      \
        }                                                      \
    } while (0)

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return opened(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE(flags, mode);
    return opened(directory, path, flags | O_LARGEFILE, mode);
}

/* ---- the wall clock */

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = syscall(SYS_clock_gettime, clock, now);

    if (!status && wrong && clock == CLOCK_REALTIME)
        now->tv_sec += *wrong;
    return status;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec found;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec found;

    clock_gettime(CLOCK_REALTIME, &found);
    if (at)
        *at = found.tv_sec;
    return found.tv_sec;
}
