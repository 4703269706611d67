/*
 * limits.c: what stacks take of the memory that a process may have, under each kind of limit; what
 * making and freeing them costs; what a process with a crowd of jobs costs otherwise.
 */
#include "stacks.h"
#include "every_call.h"
#include "seccomp.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

/* The memory of valgrind and of the sanitizers counts under these limits, too. */
enum { NOT_ON_TOOLS = NOT_ON_VALGRIND | NOT_ON_ASAN | NOT_ON_TSAN };
/* What libraries, the heap's own bookkeeping and the library's need besides. */
enum { SLACK_MIB = 8 };

static void set_limit(int resource, uint64_t bytes)
{
    struct rlimit limit;

    CHECK_INT(getrlimit(resource, &limit), 0);
    limit.rlim_cur = bytes;
    CHECK_INT(setrlimit(resource, &limit), 0);
}

/* libcrypto's jobs need a context to pause; these share one. */
static ASYNC_WAIT_CTX *ctx;

static ASYNC_JOB **crowd_of(int count)
{
    ASYNC_JOB **jobs = malloc((size_t)count * sizeof *jobs);

    if (ctx == NULL)
        ctx = ASYNC_WAIT_CTX_new();
    CHECK(jobs != NULL && ctx != NULL);
    for (int i = 0; i < count; i++)
        jobs[i] = paused_job(ctx, 1, i);
    return jobs;
}

static void end_crowd(ASYNC_JOB **jobs, int count)
{
    for (int i = 0; i < count; i++)
        finish(jobs[i], i);
    ASYNC_cleanup_thread();
    free(jobs);
}

/* ---- this program's mmap and its like, which the library calls, too ---- */

static _Atomic long mapping_calls;
/* Whether the kernel reserves memory for whatever may be written, as under overcommit mode 2. */
static int is_reserving;
/* Which of the calls fail, by mapping_calls; and whether all that make guards do. */
static long first_failing = -1, last_failing = -1;
static int is_guard_failing;

static int fails(void)
{
    long call = mapping_calls++;

    if (call < first_failing || call > last_failing)
        return 0;
    errno = ENOMEM;
    return 1;
}

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (fails())
        return MAP_FAILED;
    if (is_reserving)
        flags &= ~MAP_NORESERVE;
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}

#ifdef __GLIBC__
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}
#endif

int munmap(void *start, size_t length)
{
    mapping_calls++; /* the kernel does not refuse it */
    return (int)syscall(SYS_munmap, start, length);
}

int mprotect(void *start, size_t length, int protection)
{
    if (fails() || (is_guard_failing && protection == PROT_NONE)) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_mprotect, start, length, protection);
}

/* ---- what malloc can still have ---- */

/* In MiB; no more than `most` are tried. */
static long malloc_has(long most)
{
    struct block {
        struct block *next;
    } *blocks = NULL, *block;
    long count = 0;

    while (count < most && (block = malloc(MIB)) != NULL) {
        block->next = blocks;
        blocks = block;
        count++;
    }
    while ((block = blocks) != NULL) {
        blocks = block->next;
        free(block);
    }
    return count;
}

/* Of a limit of 420 MiB a crowd leaves malloc what the crowd need not have. */
static void check_share(int resource, int count, long kib_of_one)
{
    long base = resource == RLIMIT_AS ? kib("VmSize:") : kib("VmData:"), has;
    ASYNC_JOB **jobs;

    set_limit(resource, (uint64_t)base * KIB + 420 * (uint64_t)MIB);
    jobs = crowd_of(count);
    has = malloc_has(420);
    fprintf(stderr, "%d jobs leave malloc %ld MiB\n", count, has);
    CHECK(has >= 420 - SLACK_MIB - count * kib_of_one / KIB);
    end_crowd(jobs, count);
}

enum { WRITABLE_KIB = (DEFAULT_BYTES + LIBRARY_BYTES) / KIB,
       SLOT_KIB = WRITABLE_KIB + GUARD_BYTES / KIB };

CASE(a_data_limit_leaves_malloc_its_share, NOT_ON_TOOLS,
     "of RLIMIT_DATA 1,025 jobs take no more than 136 KiB each")
{
    check_share(RLIMIT_DATA, 1025, WRITABLE_KIB);
}

CASE(an_address_space_limit_leaves_malloc_its_share, NOT_ON_TOOLS,
     "of RLIMIT_AS 300 jobs take no more than 200 KiB each, and an eighth besides")
{
    check_share(RLIMIT_AS, 300, SLOT_KIB * 9 / 8);
}

CASE(a_crowd_leaves_malloc_its_share_of_address_space, NOT_ON_TOOLS,
     "of RLIMIT_AS 1,025 jobs take no more than 200 KiB each, and an eighth besides")
{
    check_share(RLIMIT_AS, 1025, SLOT_KIB * 9 / 8);
}

/* ---- vm.overcommit_memory 2 ---- */

/*
 * The policy counts for the whole system, which is not the test's to change. This process sees
 * the file of another in its place, in a namespace of mounts of its own; and as its mmap() drops
 * MAP_NORESERVE, which that policy ignores, the kernel reserves what it would reserve under it.
 */
static int pretend_that_nothing_is_overcommitted(void)
{
    char path[] = "/tmp/overcommit.XXXXXX";
    int fd, mounted;

    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return 0;
    fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, "2\n", 2) == 2);
    CHECK_INT(close(fd), 0);
    mounted = mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0
        && mount(path, "/proc/sys/vm/overcommit_memory", NULL, MS_BIND, NULL) == 0;
    CHECK_INT(unlink(path), 0);
    is_reserving = 1;
    return mounted;
}

/* What the kernel has reserved for this process, in KiB: mappings with the flag "ac". */
static long reserved_kib(void)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    long size = 0, all = 0;

    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        sscanf(line, "Size: %ld", &size);
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " ac") != NULL)
            all += size;
    }
    fclose(f);
    return all;
}

CASE(without_overcommit_little_is_reserved, NOT_ON_TOOLS | NOT_EMULATED,
     "under vm.overcommit_memory 2 the system reserves no more than 136 KiB for each of 16,385 "
     "jobs, and nothing for a freed one")
{
    enum { COUNT = 16385 };
    ASYNC_JOB **jobs;
    long before, with_crowd;

    if (!pretend_that_nothing_is_overcommitted()) {
        fprintf(stderr, "no namespace of mounts can be had: RLIMIT_DATA is checked instead\n");
        set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    }
    before = reserved_kib();
    jobs = crowd_of(COUNT);
    with_crowd = reserved_kib();
    fprintf(stderr, "%ld MiB are reserved for %d jobs\n", (with_crowd - before) / KIB, COUNT);
    CHECK(with_crowd - before <= (long)COUNT * WRITABLE_KIB + SLACK_MIB * KIB);
    end_crowd(jobs, COUNT);
    CHECK(reserved_kib() - before <= 3 * SLACK_MIB * KIB);
}

/* ---- at a limit ---- */

/* Starts jobs until there are no more, `most` at most. */
static int start_all(ASYNC_JOB **jobs, int most)
{
    int count, ret;

    for (count = 0; count < most; count++) {
        jobs[count] = NULL;
        if (start_pausing_job(&jobs[count], ctx, &ret, 1, count) != ASYNC_PAUSE)
            break;
    }
    return count;
}

/* Jobs are refused at the limit, go on when others have finished, and leave what they took. */
static void check_at_limit(int resource, int least)
{
    enum { MOST = 3000, ROUNDS = 3 };
    static ASYNC_JOB *jobs[MOST];
    long base = resource == RLIMIT_AS ? kib("VmSize:") : kib("VmData:"), had, has;
    int count = 0, again, round, ret, i;

    end_crowd(crowd_of(0), 0); /* makes their context */
    set_limit(resource, (uint64_t)base * KIB + 200 * (uint64_t)MIB);
    had = malloc_has(200);
    for (round = 0; round < ROUNDS; round++) {
        count = start_all(jobs, MOST);
        fprintf(stderr, "%d jobs of 200 MiB\n", count);
        CHECK(count >= least && count < MOST);
        CHECK_INT(start_pausing_job(&jobs[count], ctx, &ret, 1, 0), ASYNC_NO_JOBS);
#ifdef WITH_LIBCRYPTO
        CHECK_INT(ERR_peek_error(), 0);
#endif
        /* Every other one makes room for another. */
        for (i = 0; i < count; i += 2)
            finish(jobs[i], i);
        ASYNC_cleanup_thread();
        for (i = 0; i < count; i += 2) {
            jobs[i] = NULL;
            CHECK_INT(start_pausing_job(&jobs[i], ctx, &ret, 1, i), ASYNC_PAUSE);
        }
        for (i = 0; i < count; i++)
            finish(jobs[i], i);
        ASYNC_cleanup_thread();
        again = start_all(jobs, count);
        CHECK_INT(again, count);
        for (i = 0; i < count; i++)
            finish(jobs[i], i);
        ASYNC_cleanup_thread();
    }
    has = malloc_has(200);
    fprintf(stderr, "malloc had %ld MiB, and has %ld\n", had, has);
    CHECK(has >= had - SLACK_MIB);
}

CASE(at_a_data_limit_jobs_are_refused, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "RLIMIT_DATA ends the making of jobs with ASYNC_NO_JOBS; freed stacks are no part of it")
{
    check_at_limit(RLIMIT_DATA, 200 * KIB / WRITABLE_KIB - SLACK_MIB);
}

CASE(at_an_address_space_limit_jobs_are_refused, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "RLIMIT_AS ends the making of jobs with ASYNC_NO_JOBS; as many can be had again later")
{
    check_at_limit(RLIMIT_AS, 200 * KIB / SLOT_KIB - SLACK_MIB);
}

/* ---- time ---- */

/* The processor time of this process, in seconds: others use the machine, too. */
static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

struct times {
    double make, release;
};

/* In a child, so that each crowd is the first one; under a limit, if resource is not -1. */
static struct times time_crowd(int resource, int count)
{
    static struct times *shared;
    struct times best = { 1e9, 1e9 };

    if (shared == NULL)
        shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);
    CHECK(shared != MAP_FAILED);
    /* The best of three, as others use the machine. */
    for (int round = 0; round < 3; round++) {
        pid_t child = fork();
        int status;

        if (child == 0) {
            ASYNC_JOB **jobs;
            double began;

            if (resource != -1)
                set_limit(resource, (uint64_t)64 << 30);
            began = now();
            jobs = crowd_of(count);
            shared->make = now() - began;
            for (int i = 0; i < count; i++)
                finish(jobs[i], i);
            began = now();
            ASYNC_cleanup_thread();
            shared->release = now() - began;
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK_INT(status, 0);
        best.make = shared->make < best.make ? shared->make : best.make;
        best.release = shared->release < best.release ? shared->release : best.release;
    }
    fprintf(stderr, "%d jobs: made in %.3f s, freed in %.3f s\n", count, best.make,
            best.release);
    return best;
}

/*
 * Four times the crowd takes less than ten times as long, in seconds: sixteen times would be
 * quadratic, and beside other programs a large crowd suffers more than a small one.
 */
static int is_in_proportion(double few, double many)
{
    const double least = 0.02; /* a shorter time says nothing */

    return many <= (few > least ? few : least) * 10;
}

static void check_proportion(int resource)
{
    struct times few = time_crowd(resource, 20000), many = time_crowd(resource, 80000);

    CHECK(is_in_proportion(few.make, many.make));
    CHECK(is_in_proportion(few.release, many.release));
}

CASE(a_crowd_takes_time_in_proportion, NOT_ON_TOOLS,
     "80,000 jobs are made, and freed, in no more than ten times the time of 20,000")
{
    check_proportion(-1);
}

CASE(a_crowd_under_an_address_space_limit_takes_time_in_proportion, NOT_ON_TOOLS,
     "the same holds under RLIMIT_AS")
{
    check_proportion(RLIMIT_AS);
}

CASE(a_crowd_under_a_data_limit_takes_time_in_proportion, NOT_ON_TOOLS,
     "the same holds under RLIMIT_DATA")
{
    check_proportion(RLIMIT_DATA);
}

/* ---- one job again and again ---- */

static void one_job_once(void)
{
    end_crowd(crowd_of(1), 1);
}

static void *on_a_thread(void *arg)
{
    one_job_once();
    return arg;
}

CASE(one_job_again_and_again_maps_nothing, NOT_ON_ASAN | NOT_ON_TSAN,
     "to start a job and to call ASYNC_cleanup_thread, again and again, calls no mmap, munmap or "
     "mprotect")
{
    long before;

    one_job_once();
    before = mapping_calls;
    for (int i = 0; i < 1000; i++)
        one_job_once();
    fprintf(stderr, "%ld calls\n", mapping_calls - before);
    CHECK_INT(mapping_calls, before);
}

CASE(threads_with_one_job_map_nothing, NOT_ON_ASAN | NOT_ON_TSAN,
     "threads with a job each, one after the other, call no mmap, munmap or mprotect for it")
{
    long before;

    on_new_thread(on_a_thread, NULL);
    before = mapping_calls;
    for (int i = 0; i < 200; i++)
        on_new_thread(on_a_thread, NULL);
    fprintf(stderr, "%ld calls\n", mapping_calls - before);
    CHECK_INT(mapping_calls, before);
}

CASE(a_crowd_before_does_not_make_one_job_dear, NOT_ON_TOOLS,
     "after a crowd of 5,000 jobs one job again and again calls mmap, munmap and mprotect no more "
     "than a few times altogether")
{
    long before;

    end_crowd(crowd_of(5000), 5000);
    before = mapping_calls;
    for (int i = 0; i < 1000; i++)
        one_job_once();
    fprintf(stderr, "%ld calls\n", mapping_calls - before);
    CHECK(mapping_calls - before <= 10);
}

/* ---- what a crowd leaves ---- */

static long memory_kib(void)
{
    return resident() / KIB + kib("VmPTE:");
}

static void check_crowd_leaves_nothing(void)
{
    enum { COUNT = 20000 };
    ASYNC_JOB **jobs;
    long before, with_crowd, after;

    end_crowd(crowd_of(1), 1);
    before = memory_kib();
    jobs = crowd_of(COUNT);
    with_crowd = memory_kib();
    end_crowd(jobs, COUNT);
    after = memory_kib();
    fprintf(stderr, "KiB with page tables: %ld, %ld with the crowd, %ld after it\n", before,
            with_crowd, after);
    CHECK(with_crowd - before >= COUNT * 4L);
    CHECK(after - before <= 2 * KIB);
}

CASE(pages_and_page_tables_go_back, NOT_ON_TOOLS | NOT_EMULATED,
     "a crowd of 20,000 jobs leaves no more than 2 MiB, page tables included")
{
    check_crowd_leaves_nothing();
}

CASE(pages_and_page_tables_go_back_under_a_data_limit, NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds under RLIMIT_DATA")
{
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    check_crowd_leaves_nothing();
}

CASE(memory_locked_meanwhile_goes_back, NOT_ON_TOOLS,
     "a crowd of 2,000 jobs that is freed after mlockall(MCL_FUTURE) leaves no more than 8 MiB")
{
    enum { COUNT = 2000 };
    ASYNC_JOB **jobs;
    long before, with_crowd, after;

    end_crowd(crowd_of(1), 1);
    before = memory_kib();
    jobs = crowd_of(COUNT);
    lock_future_mappings();
    with_crowd = memory_kib();
    end_crowd(jobs, COUNT);
    after = memory_kib();
    fprintf(stderr, "KiB with page tables: %ld, %ld with the crowd, %ld after it\n", before,
            with_crowd, after);
    CHECK(after - before <= 8 * KIB);
}

CASE(locked_memory_goes_back, NOT_ON_TOOLS,
     "under mlockall(MCL_FUTURE) a crowd of 500 jobs leaves no more than 8 MiB")
{
    enum { COUNT = 500 };
    ASYNC_JOB **jobs;
    long before, with_crowd, after;

    end_crowd(crowd_of(1), 1);
    memory_kib();
    lock_future_mappings();
    before = memory_kib();
    jobs = crowd_of(COUNT);
    with_crowd = memory_kib();
    end_crowd(jobs, COUNT);
    after = memory_kib();
    fprintf(stderr, "KiB with page tables: %ld, %ld with the crowd, %ld after it\n", before,
            with_crowd, after);
    CHECK(after - before <= 8 * KIB);
}

/* From here on locked memory counts against its limit, whichever user this is. */
static void drop_the_right_to_lock(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    CHECK_INT(syscall(SYS_capget, &header, data), 0);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    CHECK_INT(syscall(SYS_capset, &header, data), 0);
}

CASE(a_limit_of_locked_memory_goes_to_the_jobs_there_are, NOT_ON_TOOLS,
     "under mlockall(MCL_FUTURE) 17 jobs take of an RLIMIT_MEMLOCK of 8 MiB no more than 200 KiB "
     "each, and an eighth besides")
{
    enum { COUNT = 17, SMALL_KIB = 512 }; /* regions that double would have room for 32 */
    ASYNC_JOB **jobs;
    long before, taken;

    set_limit(RLIMIT_MEMLOCK, 8 * MIB);
    drop_the_right_to_lock();
    lock_future_mappings();
    before = kib("VmLck:");
    jobs = crowd_of(COUNT);
    taken = kib("VmLck:") - before;
    fprintf(stderr, "%d jobs take %ld KiB\n", COUNT, taken);
    CHECK(taken > 0 && taken <= COUNT * SLOT_KIB * 9 / 8 + SMALL_KIB);
    end_crowd(jobs, COUNT);
}

/* ---- core files ---- */

/* The size of a child's core file, in MiB; -1 if the system makes none here. */
static long core_mib(int count)
{
    char directory[] = "/tmp/core.XXXXXX", pattern[256] = "";
    long size = -1;
    int status;
    pid_t child;
    DIR *files;
    struct dirent *file;
    FILE *f = fopen("/proc/sys/kernel/core_pattern", "r");

    if (f != NULL) {
        CHECK(fgets(pattern, sizeof pattern, f) != NULL);
        fclose(f);
    }
    if (f == NULL || strchr("|/@\n", pattern[0]) != NULL)
        return -1;
    CHECK(mkdtemp(directory) != NULL);
    child = fork();
    if (child == 0) {
        struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

        CHECK_INT(chdir(directory), 0);
        if (setrlimit(RLIMIT_CORE, &all) != 0)
            _exit(0);
        crowd_of(count);
        abort();
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    files = opendir(directory);
    CHECK(files != NULL);
    while ((file = readdir(files)) != NULL) {
        struct stat about;

        if (file->d_name[0] == '.')
            continue;
        CHECK_INT(fstatat(dirfd(files), file->d_name, &about, 0), 0);
        size = about.st_size / MIB;
        CHECK_INT(unlinkat(dirfd(files), file->d_name, 0), 0);
    }
    closedir(files);
    CHECK_INT(rmdir(directory), 0);
    return size;
}

/* What a core file would have of this process, in MiB: what was written and may be dumped. */
static long dumped_mib(void)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    long size = 0, anonymous = 0, all = 0;

    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        sscanf(line, "Size: %ld", &size);
        sscanf(line, "Anonymous: %ld", &anonymous);
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " dd") == NULL && anonymous > 0)
            all += size;
    }
    fclose(f);
    return all / KIB;
}

static void check_core(int count)
{
    long size = core_mib(count);

    if (size == -1) {
        ASYNC_JOB **jobs = crowd_of(count);

        fprintf(stderr, "no core file can be had: the mappings are checked\n");
        size = dumped_mib();
        end_crowd(jobs, count);
    }
    fprintf(stderr, "a core file of %d jobs has %ld MiB\n", count, size);
    CHECK(size <= count * (long)SLOT_KIB / KIB + 3 * SLACK_MIB);
}

CASE(core_files_have_no_untouched_stacks, NOT_ON_TOOLS | NOT_EMULATED,
     "a core file of a process with 4,097 jobs has no more than 200 KiB for each")
{
    check_core(4097);
}

CASE(core_files_under_a_data_limit_have_no_untouched_stacks, NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds under RLIMIT_DATA")
{
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    check_core(4097);
}

/* ---- fork ---- */

/* In seconds, the best of five. */
static double time_of_fork(void)
{
    double best = 1e9, began, took;

    for (int round = 0; round < 5; round++) {
        pid_t child;

        began = now();
        child = fork();
        if (child == 0)
            _exit(0);
        took = now() - began;
        CHECK(child > 0 && waitpid(child, NULL, 0) == child);
        best = took < best ? took : best;
    }
    return best;
}

CASE(fork_with_a_crowd, NOT_ON_TOOLS,
     "fork of a process with 20,000 paused jobs takes no more than ten times as long as with as "
     "many touched pages at the distance of stacks")
{
    enum { COUNT = 20000, APART = SLOT_KIB * KIB };
    char *pages = mmap(NULL, (size_t)COUNT * APART, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASYNC_JOB **jobs;
    double with_pages, with_jobs;

    CHECK(pages != MAP_FAILED);
    madvise(pages, (size_t)COUNT * APART, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < COUNT; i++)
        pages[i * APART] = 1;
    with_pages = time_of_fork();
    CHECK_INT(munmap(pages, (size_t)COUNT * APART), 0);
    jobs = crowd_of(COUNT);
    with_jobs = time_of_fork();
    fprintf(stderr, "fork: %.4f s with the pages, %.4f s with the jobs\n", with_pages, with_jobs);
    CHECK(with_jobs <= with_pages * 10);
    end_crowd(jobs, COUNT);
}

/* ---- no mapping to be had ---- */

#ifndef ON_LIBCRYPTO
/* Takes mappings of a page each, of differing protection, until the process may have no more. */
static char *exhaust_mappings(size_t *bytes)
{
    char *start;

    *bytes = (size_t)max_mappings() * 2 * page_bytes();
    start = mmap(NULL, *bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(start != MAP_FAILED);
    for (size_t at = 0; at < *bytes; at += 2 * page_bytes())
        if (mprotect(start + at, page_bytes(), PROT_READ) != 0)
            return start;
    CHECK(!"the limit of mappings is reached");
    return NULL;
}

/* As many stacks have no guard as the library says, or fewer. */
static void check_guards_are_counted(ASYNC_JOB **jobs, int count)
{
    int unguarded = 0;

    for (int i = 0; i < count; i++)
        if (jobs[i] != NULL)
            unguarded += readable(frames[i] - DEFAULT_BYTES - GUARD_BYTES / 2);
    CHECK(unguarded <= stacks_unguarded());
}

static int try_crowd(ASYNC_JOB **jobs, int count)
{
    int started = 0, ret;

    for (int i = 0; i < count; i++) {
        jobs[i] = NULL;
        started += ASYNC_start_job(&jobs[i], NULL, &ret, note_frame, &i, sizeof i) == ASYNC_PAUSE;
    }
    return started;
}

static void check_without_mappings(void)
{
    enum { COUNT = 400, ROUNDS = 40 };
    ASYNC_JOB *jobs[COUNT];
    size_t bytes;
    char *taken;

    frames = calloc(COUNT, sizeof *frames);
    CHECK(frames != NULL);
    CHECK_INT(try_crowd(jobs, COUNT), COUNT);
    CHECK_INT(stacks_unguarded(), 0);
    taken = exhaust_mappings(&bytes);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++)
            if (jobs[i] != NULL && i % 7 != 0) {
                finish(jobs[i], i);
                jobs[i] = NULL;
            }
        ASYNC_cleanup_thread();
        for (int i = 0; i < COUNT; i++)
            if (jobs[i] == NULL) {
                int ret, code = ASYNC_start_job(&jobs[i], NULL, &ret, note_frame, &i, sizeof i);

                CHECK(code == ASYNC_PAUSE || code == ASYNC_NO_JOBS);
            }
        check_guards_are_counted(jobs, COUNT);
    }
    CHECK_INT(munmap(taken, bytes), 0);
    for (int i = 0; i < COUNT; i++)
        if (jobs[i] != NULL)
            finish(jobs[i], i);
    ASYNC_cleanup_thread();
    CHECK_INT(try_crowd(jobs, COUNT), COUNT);
    CHECK_INT(stacks_unguarded(), 0);
    check_guards_are_counted(jobs, COUNT);
}

CASE(jobs_without_mappings, OURS | NOT_ON_TOOLS,
     "in a process that has all the mappings it may have, jobs are guarded, counted or refused")
{
    check_without_mappings();
}

CASE(jobs_without_mappings_and_markers, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds on a kernel without guard markers")
{
    answer_advice(GUARD_INSTALL, EINVAL);
    check_without_mappings();
}

CASE(jobs_without_mappings_under_a_data_limit, OURS | NOT_ON_TOOLS,
     "the same holds under RLIMIT_DATA")
{
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    check_without_mappings();
}

/* ---- any call that fails ---- */

enum { SOME = 40 };

/* Crowds that come and go, while calls fail; then, when none does, one whose stacks are guarded. */
static void come_and_go(void)
{
    ASYNC_JOB *jobs[SOME];

    frames = calloc(SOME, sizeof *frames);
    CHECK(frames != NULL);
    for (int round = 0; round < 3; round++) {
        try_crowd(jobs, SOME);
        check_guards_are_counted(jobs, SOME);
        for (int i = 0; i < SOME; i++)
            if (jobs[i] != NULL)
                finish(jobs[i], i);
        ASYNC_cleanup_thread();
        CHECK_INT(stacks_in_use(), 0);
        CHECK_INT(stacks_unguarded(), 0);
    }
    first_failing = last_failing = -1;
    free(frames);
    finish_crowd(start_crowd(SOME, note_frame), SOME);
    frames = calloc(SOME, sizeof *frames);
    CHECK(frames != NULL);
    CHECK_INT(try_crowd(jobs, SOME), SOME);
    CHECK_INT(stacks_unguarded(), 0);
    check_guards_are_counted(jobs, SOME);
}

static long *calls_made;

static void count_calls(void)
{
    long before = mapping_calls;

    come_and_go();
    *calls_made = mapping_calls - before;
}

/* In children, whose first jobs are their own. */
static void check_each_call_may_fail(void)
{
    calls_made = mmap(NULL, sizeof *calls_made, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);
    CHECK(calls_made != MAP_FAILED);
    CHECK_INT(check_child(count_calls, 0), 0);
    CHECK(*calls_made > 0);
    for (long failing = 0; failing < *calls_made; failing++)
        for (int for_good = 0; for_good < 2; for_good++) {
            first_failing = mapping_calls + failing;
            last_failing = for_good ? LONG_MAX : first_failing;
            CHECK_INT(check_child(come_and_go, 0), 0);
        }
    fprintf(stderr, "each of %ld calls has failed\n", *calls_made);
}

CASE(each_mapping_call_may_fail, OURS | NOT_ON_TOOLS,
     "whichever call of mmap or mprotect fails, alone or with all after it, jobs are guarded, "
     "counted or refused, and later ones are guarded")
{
    check_each_call_may_fail();
}

CASE(each_mapping_call_may_fail_without_markers, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds on a kernel without guard markers")
{
    answer_advice(GUARD_INSTALL, EINVAL);
    check_each_call_may_fail();
}

CASE(each_mapping_call_may_fail_under_a_data_limit, OURS | NOT_ON_TOOLS,
     "the same holds under RLIMIT_DATA")
{
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    check_each_call_may_fail();
}

CASE(each_mapping_call_may_fail_under_an_address_space_limit, OURS | NOT_ON_TOOLS,
     "the same holds under RLIMIT_AS")
{
    set_limit(RLIMIT_AS, (uint64_t)64 << 30);
    check_each_call_may_fail();
}

/* More often than a process may have mappings. */
static void fail_to_guard_often(void)
{
    is_guard_failing = 1;
    for (long i = 0; i < max_mappings(); i++)
        one_job_once();
    is_guard_failing = 0;
    finish_crowd(start_crowd(1, note_frame), 1);
    crowd_of(SOME);
    CHECK_INT(stacks_unguarded(), 0);
}

CASE(guards_that_failed_are_not_counted_for_ever, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "a guard that can't be had does not count as mappings: 65,530 such stacks later new ones are "
     "guarded, under RLIMIT_DATA and without guard markers")
{
    answer_advice(GUARD_INSTALL, EINVAL);
    CHECK_INT(check_child(fail_to_guard_often, 0), 0);
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    CHECK_INT(check_child(fail_to_guard_often, 0), 0);
}

CASE(a_large_crowd_under_a_data_limit_is_guarded, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "on a kernel with guard markers the stacks of 40,000 jobs are guarded under RLIMIT_DATA, too")
{
    enum { COUNT = 40000 };
    ASYNC_JOB **jobs;

    if (!kernel_has_guard_markers()) {
        fprintf(stderr, "no MADV_GUARD_INSTALL: nothing to check\n");
        return;
    }
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    jobs = start_crowd(COUNT, note_frame);
    CHECK(mappings() < max_mappings() * 9 / 10);
    CHECK_INT(stacks_unguarded(), 0);
    check_guards_are_counted(jobs, COUNT);
    finish_crowd(jobs, COUNT);
    CHECK_INT(stacks_unguarded(), 0);
}

/* Whether /proc/self/smaps lists the flag for the mapping that the address is in. */
static int mapping_has(const char *address, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512] = "";
    uintptr_t start, end;
    int inside = 0;

    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            break;
    }
    fclose(f);
    CHECK(inside);
    return strstr(line, flag) != NULL;
}

CASE(stacks_used_again_under_a_data_limit_have_no_huge_pages, OURS | NOT_ON_TOOLS | NOT_EMULATED,
     "under RLIMIT_DATA the mapping of a stack that was freed and is used again has no huge pages")
{
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0)
        return;
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    for (int round = 0; round < 3; round++) {
        ASYNC_JOB **jobs = start_crowd(3, note_frame);

        CHECK(mapping_has(frames[0], " nh"));
        finish_crowd(jobs, 3);
    }
}
#endif

/* ---- filters of system calls, and no /proc ---- */

/* Every call, a crowd, stacks that are used again. */
static void use_everything(void)
{
    make_every_call();
    for (int round = 0; round < 2; round++)
        end_crowd(crowd_of(300), 300);
#ifndef ON_LIBCRYPTO
    finish(paused_job(ctx, 1, 3), 3);
    RSASYNC_trim_thread();
    CHECK_INT(stacks_in_use(), 0);
#endif
}

/* What the library calls, and libcrypto's jobs need not. */
static const int more_than_libcrypto[] = {
    SYS_madvise, SYS_process_madvise, SYS_mprotect, SYS_mincore, SYS_prlimit64, SYS_openat,
    SYS_sched_yield, SYS_clock_gettime,
};

static void under_errors(int error, int resource)
{
    if (resource != -1)
        set_limit(resource, (uint64_t)64 << 30);
    filter_calls(more_than_libcrypto, sizeof more_than_libcrypto / sizeof *more_than_libcrypto,
                 SECCOMP_RET_ERRNO | (unsigned)error, SECCOMP_RET_ALLOW);
    use_everything();
}

CASE(a_filter_may_answer_eperm, SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED,
     "with a seccomp filter that answers EPERM to all that libcrypto's jobs don't need every call "
     "works")
{
    under_errors(EPERM, -1);
}

CASE(a_filter_may_answer_enosys, SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED, "the same holds for ENOSYS")
{
    under_errors(ENOSYS, -1);
}

CASE(a_filter_may_answer_eperm_under_an_address_space_limit,
     SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds under RLIMIT_AS")
{
    under_errors(EPERM, RLIMIT_AS);
}

static void refuse_mprotect(void)
{
    const int calls[] = { SYS_mprotect };

    filter_calls(calls, 1, SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW);
    use_everything();
}

CASE(a_filter_may_refuse_mprotect_under_a_data_limit, SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED,
     "with a seccomp filter that answers EPERM to mprotect every call works under RLIMIT_DATA")
{
    set_limit(RLIMIT_DATA, (uint64_t)64 << 30);
    refuse_mprotect();
}

CASE(a_filter_may_refuse_mprotect_under_mlockall, SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED,
     "the same holds under mlockall(MCL_FUTURE)")
{
    lock_future_mappings();
    refuse_mprotect();
}

static void *use_on_a_thread(void *arg)
{
    make_every_call();
    return arg;
}

/* What this program, malloc and the C library call for it, and what libcrypto's jobs do. */
static const int always_needed[] = {
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_futex, SYS_rt_sigprocmask, SYS_write,
    SYS_exit_group, SYS_getrandom,
    /* Threads, and fork. */
    SYS_rt_sigaction, SYS_clone, SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_wait4,
    SYS_gettid,
#if !defined(__GLIBC__) && defined(SYS_fork)
    SYS_fork, SYS_set_tid_address, SYS_membarrier,
#endif
};
/* README.md's list of what the library calls besides. */
static const int listed[] = {
    SYS_madvise, SYS_process_madvise, SYS_mprotect, SYS_mincore, SYS_prlimit64, SYS_openat, SYS_read,
    SYS_close,
    SYS_clock_gettime, SYS_sched_yield,
};

static int killed_resource, killed_forks;

static void under_a_filter_that_kills(void)
{
    int calls[64];
    size_t count = 0, i;

    if (killed_resource != -1)
        set_limit(killed_resource, (uint64_t)64 << 30);
    for (i = 0; i < sizeof always_needed / sizeof *always_needed; i++)
        calls[count++] = always_needed[i];
    for (i = 0; i < sizeof listed / sizeof *listed; i++)
        calls[count++] = listed[i];
    filter_calls(calls, count, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS);
    use_everything();
    on_new_thread(use_on_a_thread, NULL);
    if (killed_forks) {
        pid_t child = fork();
        int status;

        if (child == 0) {
            use_everything();
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK_INT(status, 0);
    }
}

CASE(a_filter_may_kill_what_the_readme_does_not_list, SINCE_3_0 | NOT_ON_TOOLS | NOT_EMULATED,
     "every call works under a seccomp filter that kills a process at any system call but those "
     "of libcrypto's jobs and those in the README's list, also on other threads, after a fork, and "
     "under each limit")
{
    static const int resources[] = { -1, RLIMIT_AS, RLIMIT_DATA };

    for (size_t i = 0; i < 3; i++)
        for (killed_forks = 0; killed_forks < 2; killed_forks++) {
            killed_resource = resources[i];
            CHECK_INT(check_child(under_a_filter_that_kills, 0), 0);
        }
}

static void in_an_empty_root(void)
{
    char directory[] = "/tmp/root.XXXXXX";

    CHECK(mkdtemp(directory) != NULL);
    CHECK_INT(chdir(directory), 0);
    CHECK_INT(rmdir(directory), 0);
    if (chroot(".") != 0 && (unshare(CLONE_NEWUSER) != 0 || chroot(".") != 0)) {
        fprintf(stderr, "no chroot can be had: nothing is checked\n");
        return;
    }
    CHECK(access("/proc", F_OK) != 0);
    if (killed_resource != -1)
        set_limit(killed_resource, (uint64_t)64 << 30);
    use_everything();
}

CASE(all_works_without_proc, SINCE_3_0 | NOT_ON_TOOLS,
     "in a chroot without /proc every call works, under each limit")
{
    static const int resources[] = { -1, RLIMIT_AS, RLIMIT_DATA };

    for (size_t i = 0; i < 3; i++) {
        killed_resource = resources[i];
        CHECK_INT(check_child(in_an_empty_root, 0), 0);
    }
}

#ifndef ON_LIBCRYPTO
/* ---- handles of stacks that are gone ---- */

enum { HANDLES = 200 };
static ASYNC_JOB *_Atomic handles[HANDLES];
static atomic_int is_over;

/* Asks for the contexts of jobs, most of which have finished, all the while. */
static void *poll_handles(void *arg)
{
    while (!is_over)
        for (int i = 0; i < HANDLES; i++) {
            ASYNC_WAIT_CTX *found = ASYNC_get_wait_ctx(handles[i]);

            CHECK(found == NULL || found == arg);
        }
    return NULL;
}

static void check_late_readers(int resource)
{
    pthread_t poller;

    if (resource != -1)
        set_limit(resource, (uint64_t)64 << 30);
    end_crowd(crowd_of(0), 0);
    CHECK_INT(pthread_create(&poller, NULL, poll_handles, ctx), 0);
    for (int round = 0; round < 100; round++) {
        ASYNC_JOB **jobs = crowd_of(HANDLES);

        for (int i = 0; i < HANDLES; i++)
            handles[i] = jobs[i];
        end_crowd(jobs, HANDLES);
        for (int i = 0; i < HANDLES; i++)
            CHECK(ASYNC_get_wait_ctx(handles[i]) == NULL);
    }
    is_over = 1;
    CHECK_INT(pthread_join(poller, NULL), 0);
}

CASE(a_thread_may_ask_while_stacks_come_and_go, OURS,
     "ASYNC_get_wait_ctx may be asked for finished jobs while crowds are made and freed")
{
    check_late_readers(-1);
}

CASE(a_thread_may_ask_under_an_address_space_limit, OURS | NOT_ON_TOOLS,
     "the same holds under RLIMIT_AS")
{
    check_late_readers(RLIMIT_AS);
}

CASE(a_thread_may_ask_under_a_data_limit, OURS | NOT_ON_TOOLS,
     "the same holds under RLIMIT_DATA")
{
    check_late_readers(RLIMIT_DATA);
}

/* ---- a thread's first job at its very end ---- */

static pthread_key_t key;
static int rounds_left;

static void start_in_the_last_round(void *value)
{
    if (--rounds_left > 0)
        CHECK_INT(pthread_setspecific(key, value), 0);
    else
        finish(paused_job(NULL, 1, 6), 6);
}

static void *set_key(void *value)
{
    CHECK_INT(pthread_setspecific(key, value), 0);
    return NULL;
}

/*
 * No destructor runs after that, so nothing can free the job. ThreadSanitizer has ended the thread
 * for itself by then, and crashes.
 */
CASE(a_first_job_in_the_last_round_of_destructors_stays,
     OURS | NOT_ON_VALGRIND | NOT_ON_TSAN,
     "a thread whose first job is started in the last round of its key destructors leaves that "
     "job's stack, which stacks_in_use counts; one round earlier nothing is left")
{
    CHECK_INT(pthread_key_create(&key, start_in_the_last_round), 0);
    rounds_left = PTHREAD_DESTRUCTOR_ITERATIONS - 1;
    on_new_thread(set_key, &key);
    CHECK_INT(stacks_in_use(), 0);
    rounds_left = PTHREAD_DESTRUCTOR_ITERATIONS;
    on_new_thread(set_key, &key);
    CHECK_INT(rounds_left, 0);
    CHECK_INT(stacks_in_use(), 1);
}
#endif
