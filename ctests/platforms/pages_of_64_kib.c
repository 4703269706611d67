/*
 * pages_of_64_kib.c: preloaded, it makes a system with pages of 64 KiB of one with smaller ones, as far
 * as a program sees it through the C library: mappings begin and end at such pages, and a page is in
 * memory if a part of it is. Who asks for something that such a system would refuse has taken its pages
 * for smaller ones: that ends the program. (A variable that is aligned to a smaller page begins at one
 * of these by chance, in one run of 16, and what the system does to it meets its neighbours.) Calls
 * that go around the C library are not seen.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 64 << 10, SMALLEST = 4 << 10 };

static size_t whole_pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static void check_is_page(const void *address)
{
    static const char message[] = "asked for a part of a page of 64 KiB\n";

    if ((uintptr_t)address % PAGE == 0)
        return;
    (void)!write(STDERR_FILENO, message, sizeof message - 1);
    abort();
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

/* A hint is not taken: the system may do that. */
static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    uintptr_t reserved, place;
    void *mapped;

    check_is_page((void *)(uintptr_t)offset);
    length = whole_pages(length);
    if (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
        check_is_page(at);
        return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    }
    mapped = (void *)syscall(SYS_mmap, NULL, length + PAGE, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return mapped;
    reserved = (uintptr_t)mapped;
    place = whole_pages(reserved);
    if (place > reserved)
        syscall(SYS_munmap, reserved, place - reserved);
    syscall(SYS_munmap, place + length, reserved + PAGE - place);
    mapped = (void *)syscall(SYS_mmap, place, length, protection, flags | MAP_FIXED, fd, offset);
    if (mapped == MAP_FAILED)
        syscall(SYS_munmap, place, length);
    return mapped;
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
    check_is_page(start);
    return (int)syscall(SYS_munmap, start, whole_pages(length));
}

int mprotect(void *start, size_t length, int protection)
{
    check_is_page(start);
    return (int)syscall(SYS_mprotect, start, whole_pages(length), protection);
}

int madvise(void *start, size_t length, int advice)
{
    check_is_page(start);
    return (int)syscall(SYS_madvise, start, whole_pages(length), advice);
}

int mincore(void *start, size_t length, unsigned char *answer)
{
    unsigned char parts[PAGE / SMALLEST];
    size_t page, pages = whole_pages(length) / PAGE;

    check_is_page(start);
    for (page = 0; page < pages; page++) {
        if (syscall(SYS_mincore, (char *)start + page * PAGE, PAGE, parts) != 0)
            return -1;
        answer[page] = memchr(parts, 1, sizeof parts) != NULL;
    }
    return 0;
}
