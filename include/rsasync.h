/* What rsasync has beyond OpenSSL's asynchronous jobs.
 *
 * Made by cbindgen from src/capi/rsasync_h.rs; see `make headers`. */

#ifndef RSASYNC_H
#define RSASYNC_H

#include <stddef.h>
#include <stdint.h>

/**
 * What RSASYNC_get_stats() tells of the whole process. Later versions may add members at the
 * end. What is counted since the process began is counted on by a forked child.
 */
struct rsasync_stats {
    /**
     * Stacks that exist: one for each job, those of idle jobs included.
     */
    uint64_t stacks_in_use;
    /**
     * Stacks that should have a guard below and have none, because guards have three quarters of
     * the mappings that the process may have, or the system refused one. Stacks from a program's
     * own allocator don't count.
     */
    uint64_t stacks_unguarded;
    /**
     * Jobs that were left paused or running by threads which ended, since the process began.
     * They can't be resumed, and their stacks stay.
     */
    uint64_t jobs_abandoned;
    /**
     * Jobs that run, or wait for one that they started.
     */
    uint64_t jobs_running;
    /**
     * Jobs that are paused, orphaned and abandoned ones included.
     */
    uint64_t jobs_paused;
    /**
     * Paused jobs whose wait context was freed: probably nobody will resume them.
     */
    uint64_t jobs_orphaned;
    /**
     * Jobs in pools, ready to be started.
     */
    uint64_t jobs_idle;
    /**
     * How often jobs were started since the process began.
     */
    uint64_t starts;
    /**
     * How often jobs paused.
     */
    uint64_t pauses;
    /**
     * How often jobs were resumed.
     */
    uint64_t resumes;
    /**
     * How often jobs finished.
     */
    uint64_t finishes;
    /**
     * Calls refused because init_size was above max_size.
     */
    uint64_t refused_pool_size;
    /**
     * Calls refused because a pointer was NULL.
     */
    uint64_t refused_null;
    /**
     * Calls refused because there was no memory.
     */
    uint64_t refused_memory;
    /**
     * Calls refused because of the job's thread or state, or because its handle is stale.
     */
    uint64_t refused_state;
    /**
     * Starts that got ASYNC_NO_JOBS because of the limit of ASYNC_init_thread().
     */
    uint64_t no_jobs_limit;
    /**
     * Starts that got ASYNC_NO_JOBS because there was no memory for a stack.
     */
    uint64_t no_jobs_memory;
    /**
     * Orphans that were destroyed, because RSASYNC_RECLAIM_ORPHANS asks for it.
     */
    uint64_t orphans_reclaimed;
    /**
     * Stacks made since the process began.
     */
    uint64_t stacks_made;
    /**
     * The most stacks that existed together.
     */
    uint64_t stacks_peak;
    /**
     * Usable bytes of a stack. A program's own allocator is asked for as many where
     * RSASYNC_STACK_SIZE is set, else for 32 KiB.
     */
    uint64_t stack_bytes;
    /**
     * The most bytes of a stack that a job has used, as far as that can still be seen. Stacks from
     * a program's own allocator don't count.
     */
    uint64_t stack_deepest_bytes;
    /**
     * Bytes of the stacks that are in memory now, without those from a program's own allocator.
     */
    uint64_t stack_resident_bytes;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Tells why a call on this thread was last refused or got no job, and what to do about it.
 *
 * A refusal is ASYNC_ERR, the 0 of ASYNC_WAIT_CTX_set_callback(), or a 0 or NULL that comes with one
 * of the ERRORS of the function's man page. Searches that find nothing, ASYNC_set_mem_functions()
 * too late, and calls that succeed leave the message alone.
 *
 * Where a libcrypto is in the process, and its OPENSSL_cleanup() has not run, ERR_get_error(3ssl)
 * gives refusals as well, but for that of ASYNC_WAIT_CTX_set_callback(). ASYNC_NO_JOBS of
 * ASYNC_start_job(), which is no error, is told of here only. RSASYNC_get_stats() counts both in the
 * whole process.
 *
 * @return a static string, never NULL, empty if there was no such call; any thread may keep it
 */
const char *RSASYNC_last_error(void);

/**
 * Tells the version of this library.
 *
 * @return a static string, such as "0.1.0"
 */
const char *RSASYNC_version(void);

/**
 * Counts the jobs and stacks of the process, and what became of calls. A program that was built
 * with another version of rsasync.h gets the members that both know; the rest of its structure is
 * set to 0. Any thread may call it.
 *
 * If `size` reaches beyond jobs_abandoned it looks at each job and its stack, which takes about a
 * microsecond for each. While other threads use jobs the counts may be of slightly different
 * moments. Where the address space is limited (RLIMIT_AS), or all memory is locked (MCL_FUTURE),
 * stack_resident_bytes and stack_deepest_bytes leave out the stacks in use.
 *
 * @param stats  where the counts are written; NULL: nothing is done
 * @param size   the bytes that the caller has there: give `sizeof(*stats)`
 *
 * What the caller must see to:
 * `stats` is NULL or may be written for `size` bytes.
 */
void RSASYNC_get_stats(struct rsasync_stats *stats, size_t size);

/**
 * Frees the calling thread's idle jobs and gives back the memory of their stacks. Paused and
 * running jobs stay, and so does the limit of ASYNC_init_thread(), up to which new jobs can be
 * made. RSASYNC_get_stats() tells how many idle jobs the process has.
 *
 * Without this call idle jobs keep their stacks until ASYNC_cleanup_thread(), ASYNC_init_thread()
 * or the thread's end, but what those have touched goes back, by this rule. Whenever 256 jobs of a
 * thread have finished, it looks how many of its idle jobs it has not needed for a period of at
 * least ten seconds. With each job that finishes from then on, on average, one of those comes down
 * to one page (4 KiB, mostly). A thread whose jobs don't finish gives nothing back. The rule holds
 * for stacks from the default functions of ASYNC_get_mem_functions(), in memory that is not
 * locked.
 *
 * @return the bytes of memory that the system got back, without what is locked and stays; of
 *         stacks from a program's own function, the sizes of what its other function took back
 */
size_t RSASYNC_trim_thread(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RSASYNC_H */
