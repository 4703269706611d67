/*
 * dl_find_object.c: glibc's _dl_find_object(), which Debian's libgcc_eh.a asks where an object's
 * unwind information is, for a C library that lacks it. With it that archive serves musl.
 */
#define _GNU_SOURCE
#include <link.h>
#include <stddef.h>
#include <stdint.h>

/* From glibc's <dlfcn.h>, up to what the unwinder reads. */
struct dl_find_object {
    unsigned long long flags;
    void *map_start, *map_end;
    struct link_map *link_map;
    void *eh_frame;
};

struct search {
    uintptr_t address;
    struct dl_find_object *result;
};

static int look(struct dl_phdr_info *info, size_t size, void *search_)
{
    struct search *search = search_;
    int i, is_it = 0;

    (void)size;
    search->result->eh_frame = NULL;
    for (i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header->p_vaddr;

        if (header->p_type == PT_LOAD && search->address - start < header->p_memsz) {
            search->result->map_start = (void *)start;
            search->result->map_end = (void *)(start + header->p_memsz);
            is_it = 1;
        } else if (header->p_type == PT_GNU_EH_FRAME) {
            search->result->eh_frame = (void *)start;
        }
    }
    return is_it && search->result->eh_frame != NULL;
}

/* Hidden: what looks for it by name takes it for glibc's. */
__attribute__((visibility("hidden"))) int _dl_find_object(void *address, struct dl_find_object *result)
{
    struct search search = {(uintptr_t)address, result};

    return dl_iterate_phdr(look, &search) ? 0 : -1;
}
