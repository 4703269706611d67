//! What the system allows this process: pages, mappings, memory.

use std::ffi::{CStr, c_int};
use std::mem;
use std::num::NonZero;
use std::ptr;

use once_cell::race::OnceNonZeroUsize;

/// Bytes of a page.
pub fn page_bytes() -> usize {
    static CACHED: OnceNonZeroUsize = OnceNonZeroUsize::new();
    // SAFETY: the function has no conditions.
    let ask = || NonZero::new(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize);
    CACHED
        .get_or_init(|| ask().expect("a page has a size"))
        .get()
}

/// How many mappings the process may have.
pub fn mappings() -> usize {
    const USUAL: usize = 65_530;
    static CACHED: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let read = || {
        let limit = number_in(c"/proc/sys/vm/max_map_count").and_then(NonZero::new);
        limit.unwrap_or(NonZero::new(USUAL).expect("it is not 0"))
    };
    CACHED.get_or_init(read).get()
}

/// Whether every mapping counts against a limit, touched or not: what rsasync maps, the program's
/// `malloc` can't have.
pub fn is_address_space_limited() -> bool {
    is_limited(libc::RLIMIT_AS, libc::getrlimit)
}

/// Whether every writable mapping counts against a limit, touched or not: one of the process, or
/// the memory of a system that lets nobody reserve more than it has.
pub fn is_writable_memory_charged() -> bool {
    const NEVER_OVERCOMMIT: usize = 2;
    static POLICY_PLUS_ONE: OnceNonZeroUsize = OnceNonZeroUsize::new();
    let read = || {
        let policy = number_in(c"/proc/sys/vm/overcommit_memory").unwrap_or(0);
        NonZero::<usize>::MIN.saturating_add(policy)
    };
    POLICY_PLUS_ONE.get_or_init(read).get() == NEVER_OVERCOMMIT + 1
        || is_limited(libc::RLIMIT_DATA, libc::getrlimit)
}

/// Whether memory is committed as soon as it is mapped to be written: `mlockall(MCL_FUTURE)`.
pub fn is_new_memory_committed() -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let mut answer = 0_u8;
    // SAFETY: the page is a new one, and is unmapped again; the answer has a byte for it.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), page_bytes(), protection, flags, -1, 0);
        if page != libc::MAP_FAILED {
            libc::mincore(page, page_bytes(), &mut answer);
            libc::munmap(page, page_bytes());
        }
    }
    answer & 1 != 0
}

/// Whether `getrlimit` tells a limit. (Its resources are unsigned numbers in glibc, signed in musl.)
fn is_limited<R>(
    resource: R,
    getrlimit: unsafe extern "C" fn(R, *mut libc::rlimit) -> c_int,
) -> bool {
    // SAFETY: the kernel writes a local variable, a struct of numbers.
    unsafe {
        let mut limit = mem::zeroed::<libc::rlimit>();
        getrlimit(resource, &mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY
    }
}

/// The number that a file consists of. Uses no heap, which may be what there is none of.
fn number_in(path: &CStr) -> Option<usize> {
    let mut text = [0_u8; 24];
    // SAFETY: the path is a C string, the buffer as long as is said. Where the file can't be
    // opened, reading fails too.
    let length = unsafe {
        // (Not `open`, which is two system calls in musl.)
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let file = libc::openat(libc::AT_FDCWD, path.as_ptr(), flags);
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        usize::try_from(length).ok()?
    };
    str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}
