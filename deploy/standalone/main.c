/* uProxy as one file, for machines without Python: this program is the interpreter, and a tar
 * archive of the modules follows it, then a trailer that says where the archive is.
 *
 * The kernel maps shared libraries from files of their own, so the archive is unpacked once, into
 * a folder named after what is in it, and every later start uses that folder.  A program without
 * an archive (the Debian package's) finds its modules in ../lib/uproxy.
 *
 * Rules: nothing is loaded from a folder that anybody but root and this user could have written.
 * The process stays the one that was started: same PID, same descriptors, no other process.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TRAILER "uproxy-archive %16llu %16llu %64s\n"
#define TRAILER_SIZE (15 + 16 + 1 + 16 + 1 + 64 + 1)
#define BLOCK 512 /* of a tar archive (POSIX.1-1988, ustar) */

struct archive {
    int file;
    off_t start, end;
    char digest[65]; /* SHA-256 of the archive, in hexadecimal */
};

struct entry {
    char name[257];
    int is_folder;
    off_t start, size;
};

/* One line, as every error of uProxy; exits with the code for a failure. */
static void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("uproxy: error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* The path `folder/name`, or exit: a path that was cut short would be another one. */
static void join(char path[PATH_MAX], const char *folder, const char *name)
{
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        fail("the path %.60s… is too long", folder);
}

/* Whether an archive follows the program; if so, where it is. */
static int find_archive(struct archive *archive)
{
    char trailer[TRAILER_SIZE + 1] = "";
    unsigned long long start, size;
    struct stat whole;

    archive->file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (archive->file < 0 || fstat(archive->file, &whole) < 0)
        fail("/proc/self/exe can't be read: %s; is /proc mounted?", strerror(errno));
    if (pread(archive->file, trailer, TRAILER_SIZE, whole.st_size - TRAILER_SIZE) != TRAILER_SIZE
        || sscanf(trailer, TRAILER, &start, &size, archive->digest) != 3)
        return 0;
    archive->start = start;
    archive->end = start + size;
    if (archive->end != whole.st_size - TRAILER_SIZE)
        fail("this file is incomplete: copy it again");
    return 1;
}

/* The entry at `*at`, which is moved to the next one; 0 at the end of the archive. */
static int next_entry(const struct archive *archive, off_t *at, struct entry *entry)
{
    char header[BLOCK], size[13] = "";
    int has_prefix;

    if (*at + BLOCK > archive->end || pread(archive->file, header, BLOCK, *at) != BLOCK
        || header[0] == 0)
        return 0;
    has_prefix = header[345] != 0;
    snprintf(entry->name, sizeof entry->name, "%.155s%s%.100s", header + 345,
             has_prefix ? "/" : "", header);
    memcpy(size, header + 124, 12);
    entry->size = strtoll(size, NULL, 8);
    entry->is_folder = header[156] == '5';
    entry->start = *at + BLOCK;
    *at = entry->start + (entry->size + BLOCK - 1) / BLOCK * BLOCK;
    return 1;
}

/* Whether this is a folder that only root and this user can write to. */
static int is_ours(const char *path)
{
    struct stat found;

    return lstat(path, &found) == 0 && S_ISDIR(found.st_mode)
        && (found.st_uid == 0 || found.st_uid == geteuid()) && !(found.st_mode & 022);
}

/* Whether `folder` has every file of the archive in its size: a machine that lost power while
 * they were written may have some that are empty. */
static int is_complete(const struct archive *archive, const char *folder)
{
    off_t at = archive->start;
    char path[PATH_MAX];
    struct entry entry;
    struct stat found;

    if (!is_ours(folder))
        return 0;
    while (next_entry(archive, &at, &entry)) {
        join(path, folder, entry.name);
        if (lstat(path, &found) < 0 || (!entry.is_folder && found.st_size != entry.size))
            return 0;
    }
    return 1;
}

static int write_file(const struct archive *archive, const struct entry *entry, const char *path)
{
    off_t at = entry->start, end = entry->start + entry->size;
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int done = file >= 0 && fchmod(file, 0644) == 0; /* whatever the umask is */

    while (done && at < end)
        done = sendfile(file, archive->file, &at, end - at) > 0;
    if (file >= 0 && close(file) < 0)
        done = 0;
    return done;
}

/* Write all entries below `folder`, which is new; whether that worked. */
static int write_entries(const struct archive *archive, const char *folder)
{
    off_t at = archive->start;
    char path[PATH_MAX];
    struct entry entry;

    while (next_entry(archive, &at, &entry)) {
        join(path, folder, entry.name);
        if (entry.is_folder ? mkdir(path, 0755) < 0 || chmod(path, 0755) < 0
                            : !write_file(archive, &entry, path))
            return 0;
    }
    return 1;
}

/* Remove a folder and what is in it. */
static void remove_folder(const char *folder)
{
    DIR *opened = opendir(folder);
    struct dirent *each;
    char path[PATH_MAX];

    while (opened && (each = readdir(opened))) {
        if (!strcmp(each->d_name, ".") || !strcmp(each->d_name, ".."))
            continue;
        join(path, folder, each->d_name);
        if (unlink(path) < 0 && errno == EISDIR)
            remove_folder(path);
    }
    if (opened)
        closedir(opened);
    rmdir(folder);
}

/* Unpack beside `folder` and rename, so that whoever starts meanwhile sees all of it or nothing;
 * whether the modules are there afterwards, made by this process or another one. */
static int unpack(const struct archive *archive, const char *folder)
{
    char fresh[PATH_MAX];

    if (snprintf(fresh, sizeof fresh, "%s.XXXXXX", folder) >= PATH_MAX || !mkdtemp(fresh))
        return 0;
    if (write_entries(archive, fresh) && chmod(fresh, 0755) == 0) {
        if (rename(fresh, folder) == 0)
            return 1;
        if (is_complete(archive, folder)) { /* another process was faster */
            remove_folder(fresh);
            return 1;
        }
        remove_folder(folder); /* one that lost power */
        if (rename(fresh, folder) == 0)
            return 1;
    }
    remove_folder(fresh);
    return is_complete(archive, folder);
}

/* Make a folder and, up to it, those that are missing. */
static void make_folders(const char *path)
{
    char each[PATH_MAX];
    char *slash;

    snprintf(each, sizeof each, "%s", path);
    for (slash = strchr(each + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(each, 0755);
        *slash = '/';
    }
    mkdir(each, 0755);
    if (geteuid() == 0)
        chmod(each, 0755); /* for the users of its units, whatever the umask is */
}

/* Whether the modules are, or can be put, below `cache`; their folder is written to `library`. */
static int find_below(const struct archive *archive, const char *cache, char library[PATH_MAX])
{
    struct statvfs mount;

    join(library, cache, archive->digest);
    if (statvfs(cache, &mount) < 0)
        make_folders(cache);
    if (statvfs(cache, &mount) < 0 || (mount.f_flag & ST_NOEXEC) || !is_ours(cache))
        return 0;
    return is_complete(archive, library) || unpack(archive, library);
}

/* Find or make the folder with the modules of the archive. */
static void find_library(const struct archive *archive, char library[PATH_MAX])
{
    static const char *const places[][2] = {
        {"CACHE_DIRECTORY", ""}, /* systemd's CacheDirectory= */
        {"XDG_CACHE_HOME", "/uproxy"},
        {NULL, "/var/cache/uproxy"}, /* made by root, used by everybody */
        {"HOME", "/.cache/uproxy"},
    };
    char cache[PATH_MAX];
    size_t i;

    for (i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = places[i][0] ? secure_getenv(places[i][0]) : "";

        if (value && (!places[i][0] || *value == '/')
            && snprintf(cache, sizeof cache, "%s%s", value, places[i][1]) < PATH_MAX
            && find_below(archive, cache, library))
            return;
    }
    snprintf(cache, sizeof cache, "/tmp/uproxy-%u", (unsigned)geteuid());
    if (!find_below(archive, cache, library))
        fail("there is no folder to unpack into: run `uproxy version` as root once, which makes"
             " /var/cache/uproxy, or name a folder in XDG_CACHE_HOME that is writable for this"
             " user only and not mounted with noexec");
}

/* Find the modules of a program without an archive. */
static void find_installed(const char *program, char library[PATH_MAX])
{
    char folder[PATH_MAX];
    char *slash;

    snprintf(folder, sizeof folder, "%s", program);
    slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
    join(library, folder, "../lib/uproxy");
    if (!is_ours(library))
        fail("%s is missing, or others than root can write to it: install uproxy again", library);
}

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

/* Set up an interpreter that takes nothing from the environment and has one folder of modules. */
static void start_python(const char *program, const char *library, int argc, char **argv)
{
    PyPreConfig before;
    PyConfig config;
    wchar_t *folder;

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 1;
    config.write_bytecode = 0;
    config.site_import = 0;
    config.parse_argv = 0;
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    check(PyConfig_SetBytesString(&config, &config.executable, program));
    check(PyConfig_SetBytesString(&config, &config.base_executable, program));
    folder = Py_DecodeLocale(library, NULL);
    if (!folder)
        fail("no memory left");
    check(PyConfig_SetString(&config, &config.prefix, folder));
    check(PyConfig_SetString(&config, &config.base_prefix, folder));
    check(PyConfig_SetString(&config, &config.exec_prefix, folder));
    check(PyConfig_SetString(&config, &config.base_exec_prefix, folder));
    config.module_search_paths_set = 1;
    check(PyWideStringList_Append(&config.module_search_paths, folder));
    check(PyConfig_SetString(&config, &config.run_command,
                             L"import sys\nfrom uproxy.__main__ import main\nsys.exit(main())"));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    PyMem_RawFree(folder);
}

/* `uproxy run` handles these when its event loop runs; until then the kernel keeps them, also
 * while modules are unpacked. */
static void hold_signals_back(int argc, char **argv)
{
    sigset_t handled;
    int i = 1;

    while (i < argc && argv[i][0] == '-')
        i++;
    if (i == argc || strcmp(argv[i], "run"))
        return;
    sigemptyset(&handled);
    sigaddset(&handled, SIGHUP);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGTERM);
    sigprocmask(SIG_BLOCK, &handled, NULL);
}

int main(int argc, char **argv)
{
    char program[PATH_MAX], library[PATH_MAX];
    struct archive archive;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);

    hold_signals_back(argc, argv);
    if (length < 0)
        fail("/proc/self/exe can't be read: %s; is /proc mounted?", strerror(errno));
    program[length] = 0;
    if (find_archive(&archive))
        find_library(&archive, library);
    else
        find_installed(program, library);
    close(archive.file);
    start_python(program, library, argc, argv);
    return Py_RunMain();
}
