/*
 * fail_nth.c: makes the library's calls for memory fail, by the plan in fail_nth.h.
 *
 * Every library of the process calls the functions of this file, which the program defines, instead
 * of libc's. Only calls with a return address in librsasync.so are counted and can fail; those of
 * the program, of libc and of libcrypto are passed on. (libfiu's preload cannot tell callers apart
 * by library nor count to n, and has no posix_memalign.)
 */
#define _GNU_SOURCE
#include "fail_nth.h"
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GUARD_INSTALL = 102 }; /* MADV_GUARD_INSTALL, which old headers do not have */

struct faults *faults;
static uintptr_t library_start, library_end;

static int find_library(struct dl_phdr_info *info, size_t size, void *arg)
{
    int i;

    (void)size, (void)arg;
    if (strstr(info->dlpi_name, "/librsasync.so") == NULL)
        return 0;
    library_start = info->dlpi_addr;
    for (i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];

        if (segment->p_type == PT_LOAD)
            library_end = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
    }
    return 1;
}

__attribute__((constructor)) static void find_librsasync(void)
{
    if (dl_iterate_phdr(find_library, NULL) == 0)
        abort();
}

/* Whether a call with this return address is the library's, and calls are counted. */
static int is_library_call(void *return_address)
{
    uintptr_t address = (uintptr_t)return_address;

    return faults != NULL && address >= library_start && address < library_end;
}

/* Counts a call, and tells whether it fails. */
static int fails(enum kind kind)
{
    if (kind != faults->kind)
        return 0;
    faults->calls++;
    if (faults->calls < faults->first || faults->calls > faults->last)
        return 0;
    faults->failed++;
    errno = ENOMEM;
    return 1;
}

/* libc's own functions, under the names that it has for programs that replace them. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

#define BY_LIBRARY is_library_call(__builtin_return_address(0))

/* Counts a block that the library has got. */
static void *counted(int by_library, void *block)
{
    if (by_library && block != NULL)
        faults->blocks++;
    return block;
}

void *malloc(size_t size)
{
    int by_library = BY_LIBRARY;

    return by_library && fails(MALLOC) ? NULL : counted(by_library, __libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    int by_library = BY_LIBRARY;

    return by_library && fails(MALLOC) ? NULL : counted(by_library, __libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
    int by_library = BY_LIBRARY;

    if (by_library && fails(MALLOC))
        return NULL;
    return counted(by_library && block == NULL, __libc_realloc(block, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    int by_library = BY_LIBRARY;

    return by_library && fails(MALLOC) ? NULL : counted(by_library, __libc_memalign(alignment, size));
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    int by_library = BY_LIBRARY;

    if (by_library && fails(MALLOC))
        return ENOMEM;
    *block = counted(by_library, __libc_memalign(alignment, size));
    return *block == NULL ? ENOMEM : 0;
}

void free(void *block)
{
    if (BY_LIBRARY && block != NULL)
        faults->blocks--;
    __libc_free(block);
}

static void *map(int by_library, void *at, size_t length, int protection, int flags, int fd,
                 off_t offset)
{
    void *start;

    if (by_library && fails(MMAP))
        return MAP_FAILED;
    start = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    /* With MAP_FIXED the library maps anew what it had mapped before. */
    if (by_library && start != MAP_FAILED && (flags & MAP_FIXED) == 0)
        faults->mapped += (long)length;
    return start;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(BY_LIBRARY, at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(BY_LIBRARY, at, length, protection, flags, fd, offset);
}

/*
 * Whoever calls: the library may end a function with a jump here (a tail call), and the return
 * address is its caller's then.
 */
int munmap(void *start, size_t length)
{
    int result = (int)syscall(SYS_munmap, start, length);

    if (faults != NULL && result == 0)
        faults->mapped -= (long)length;
    return result;
}

int madvise(void *start, size_t length, int advice)
{
    if (BY_LIBRARY) {
        if (faults->no_markers && advice == GUARD_INSTALL) {
            errno = EINVAL;
            return -1;
        }
        if (fails(MADVISE))
            return -1;
    }
    return (int)syscall(SYS_madvise, start, length, advice);
}

int mprotect(void *start, size_t length, int protection)
{
    if (BY_LIBRARY) {
        if (faults->no_guards && protection == PROT_NONE) {
            errno = ENOMEM;
            return -1;
        }
        if (fails(MPROTECT))
            return -1;
    }
    return (int)syscall(SYS_mprotect, start, length, protection);
}
