/*
 * pages_of_64_kib.c: preloaded, it makes a system with pages of 64 KiB of one with smaller ones, as far
 * as a program sees it through the C library: mappings begin and end at such pages, what does not is
 * refused, and a page is in memory if a part of it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 64 << 10, SMALLEST = 4 << 10 };

static int is_page(const void *address)
{
    return (uintptr_t)address % PAGE == 0;
}

static size_t whole_pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static int refuse(void)
{
    errno = EINVAL;
    return -1;
}

long sysconf(int name)
{
    extern long __sysconf(int name);

    return name == _SC_PAGESIZE ? PAGE : __sysconf(name);
}

int getpagesize(void)
{
    return PAGE;
}

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    uintptr_t start, place;
    void *mapped;

    if (!is_page(at)) {
        refuse();
        return MAP_FAILED;
    }
    length = whole_pages(length);
    if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) || !(flags & MAP_ANONYMOUS))
        return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    mapped = (void *)syscall(SYS_mmap, NULL, length + PAGE, protection, flags, fd, offset);
    if (mapped == MAP_FAILED)
        return mapped;
    start = (uintptr_t)mapped;
    place = whole_pages(start);
    if (place > start)
        syscall(SYS_munmap, start, place - start);
    syscall(SYS_munmap, place + length, start + PAGE - place);
    return (void *)place;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return map(at, length, protection, flags, fd, offset);
}

int munmap(void *start, size_t length)
{
    return is_page(start) ? (int)syscall(SYS_munmap, start, whole_pages(length)) : refuse();
}

int mprotect(void *start, size_t length, int protection)
{
    if (!is_page(start))
        return refuse();
    return (int)syscall(SYS_mprotect, start, whole_pages(length), protection);
}

int madvise(void *start, size_t length, int advice)
{
    if (!is_page(start))
        return refuse();
    return (int)syscall(SYS_madvise, start, whole_pages(length), advice);
}

int mincore(void *start, size_t length, unsigned char *answer)
{
    unsigned char parts[PAGE / SMALLEST];
    size_t page, pages = whole_pages(length) / PAGE;

    if (!is_page(start))
        return refuse();
    for (page = 0; page < pages; page++) {
        if (syscall(SYS_mincore, (char *)start + page * PAGE, PAGE, parts) != 0)
            return -1;
        answer[page] = memchr(parts, 1, sizeof parts) != NULL;
    }
    return 0;
}
