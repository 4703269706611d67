/* What rsasync has beyond OpenSSL's asynchronous jobs.
 *
 * Made by cbindgen from src/capi/rsasync_h.rs; see `make headers`. */

#ifndef RSASYNC_H
#define RSASYNC_H

#include <stddef.h>
#include <stdint.h>

/**
 * What RSASYNC_get_stats() tells of the whole process. Later versions may add members at the
 * end.
 */
struct rsasync_stats {
    /**
     * Stacks that exist: one for each job, those of idle jobs included.
     */
    uint64_t stacks_in_use;
    /**
     * Those of them that should have a guard below and have none, because guards have three
     * quarters of the mappings that the process may have, or the system refused one. Stacks from
     * a program's own allocator don't count.
     */
    uint64_t stacks_unguarded;
    /**
     * Jobs that were left paused or running by threads which ended, since the process began.
     * They can't be resumed, and their stacks stay.
     */
    uint64_t jobs_abandoned;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Says why the last call that was refused on this thread, or got no job, was so, and what to do
 * about it.
 *
 * Calls that succeed leave the message alone. It is a static string, never NULL, empty if
 * there was none; any thread may keep it. Where a libcrypto is in the process, refusals are
 * on its error queue as well; ASYNC_NO_JOBS, which is no error, is told of here only.
 */
const char *RSASYNC_last_error(void);

/**
 * Returns the version of this library, such as "0.1.0": a static string.
 */
const char *RSASYNC_version(void);

/**
 * Writes the counts of this moment to *stats, of which the caller has size bytes: give
 * sizeof(*stats). A program that was built with another version of this header gets the
 * members that both know; the rest of its structure is set to 0. Any thread may call it.
 *
 * What the caller must see to:
 * `stats` may be written for `size` bytes.
 */
void RSASYNC_get_stats(struct rsasync_stats *stats, size_t size);

/**
 * Frees the calling thread's idle jobs and gives back the memory of their stacks. Paused and
 * running jobs stay, and so does the limit of ASYNC_init_thread(), up to which new jobs can be
 * made.
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
