/*
 * fail_nth.c: stands between librsasync.so and libc and makes calls for memory fail.
 *
 * Linked into a program, these functions come before libc's for every library of the process.
 * Only calls that return into librsasync.so are counted and can fail; the program's own, and
 * libc's and libcrypto's, pass. (libfiu's preload can't tell callers apart by library, nor
 * count to n, and has no posix_memalign.)
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

#define MADV_GUARD_INSTALL_ 102

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

__attribute__((constructor)) static void start(void)
{
    if (dl_iterate_phdr(find_library, NULL) == 0)
        abort();
}

/* Whether the call that will return there is the library's, and counts. */
static int is_ours(void *return_address)
{
    uintptr_t address = (uintptr_t)return_address;

    return faults != NULL && address >= library_start && address < library_end;
}

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

/* libc's own, by the names that it keeps for those who replace them. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

#define OURS is_ours(__builtin_return_address(0))

static void *counted(int ours, void *block)
{
    if (ours && block != NULL)
        faults->blocks++;
    return block;
}

void *malloc(size_t size)
{
    int ours = OURS;

    return ours && fails(MALLOC) ? NULL : counted(ours, __libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    int ours = OURS;

    return ours && fails(MALLOC) ? NULL : counted(ours, __libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
    int ours = OURS;

    if (ours && fails(MALLOC))
        return NULL;
    return counted(ours && block == NULL, __libc_realloc(block, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    int ours = OURS;

    return ours && fails(MALLOC) ? NULL : counted(ours, __libc_memalign(alignment, size));
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    int ours = OURS;

    if (ours && fails(MALLOC))
        return ENOMEM;
    *block = counted(ours, __libc_memalign(alignment, size));
    return *block == NULL ? ENOMEM : 0;
}

void free(void *block)
{
    if (OURS && block != NULL)
        faults->blocks--;
    __libc_free(block);
}

static void *map(int ours, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    void *start;

    if (ours && fails(MMAP))
        return MAP_FAILED;
    start = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    if (ours && start != MAP_FAILED)
        faults->mapped += (long)length;
    return start;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(OURS, at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(OURS, at, length, protection, flags, fd, offset);
}

/* The library's last act in a call may be a jump here, which returns into the program. */
int munmap(void *start, size_t length)
{
    int result = (int)syscall(SYS_munmap, start, length);

    if (faults != NULL && result == 0)
        faults->mapped -= (long)length;
    return result;
}

int madvise(void *start, size_t length, int advice)
{
    if (OURS) {
        if (faults->no_markers && advice == MADV_GUARD_INSTALL_) {
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
    if (OURS && fails(MPROTECT))
        return -1;
    return (int)syscall(SYS_mprotect, start, length, protection);
}
