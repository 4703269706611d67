//! The objects that the dynamic loader has loaded, without waiting for it.
//!
//! glibc has three locks, all recursive:
//!
//! - One is held through a whole `dlopen` or `dlclose`, while constructors and destructors run.
//!   They may wait for the very thread that asks `dladdr`, `dlsym` or `dlopen`: nothing here does.
//! - One guards the list of objects, while an object is linked or unlinked, and while a callback of
//!   `dl_iterate_phdr` runs. [`try_for_each_object`] waits for it a moment. In a forked child glibc
//!   (2.36) renews the other two but not this one, so a child walks the list only after it has
//!   itself loaded something: that proves that the lock is free.
//! - One guards thread-local memory, while a `dlopen` relocates or a thread is created; see
//!   [`try_with_tls_lock`].
//!
//! Whether something was loaded is read from the loader's own count, without any lock. Every
//! object of a walk comes with the value of that count. The word lies in the loader's data,
//! `_rtld_global`, right behind its recursive locks:
//!
//! ```text
//!   _rtld_global:  ...  | lock | lock | lock | count |  ...
//!                                  ^ kind = recursive
//! ```
//!
//! That place is believed because it has the right value behind a recursive lock, and only as
//! long as it has the right value at every walk. The lock of the list is one of those: the one that
//! a thread holds once more while it walks. Where the count can't be found (a static program, which
//! hardly loads anything), [`load_count`] is 0 for ever, and the callers walk now and then.
//!
//! musl (1.2.2 or later) is simpler. It holds its lock while it maps and relocates objects, not while
//! constructors run, and its `fork` waits for that; so anyone may walk. It unloads nothing, and new
//! objects follow at the end of its list: a word there tells that there are some, and its address
//! is the count until then.

use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::ops::ControlFlow;
use std::ptr;
use std::slice;
use std::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use crate::sys::clock::{lock_until, time_in};
use crate::sys::elf::{Object, SymbolType};

/// Where the loader counts the objects that it has ever loaded, or [`UNKNOWN`].
static LOAD_COUNT: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const UNKNOWN).cast_mut());
static UNKNOWN: AtomicU64 = AtomicU64::new(0);

/// The lock of the loader's list, or NULL where it is not known.
static LIST_LOCK: AtomicPtr<libc::pthread_mutex_t> = AtomicPtr::new(ptr::null_mut());

/// The lock that is right before the count: in glibc 2.35 and later that of thread-local memory,
/// which a `dlopen` holds while it relocates, and `pthread_create` takes. Or NULL.
static TLS_LOCK: AtomicPtr<libc::pthread_mutex_t> = AtomicPtr::new(ptr::null_mut());

/// glibc's function that tells which object an address lies in (2.35 and later), or NULL. It
/// takes no lock, and knows an object from the end of its relocation to the end of its
/// destructors.
static FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

type FindObject = unsafe extern "C" fn(address: *mut c_void, found: *mut FoundObject) -> c_int;

/// `struct dl_find_object`, from <dlfcn.h>.
#[repr(C)]
struct FoundObject {
    flags: u64,
    start: *mut c_void,
    end: *mut c_void,
    link_map: *const LinkMap,
    eh_frame: *mut c_void,
    reserved: [u64; 8],
}

/// The beginning of `struct link_map`, from <link.h>.
#[repr(C)]
struct LinkMap {
    bias: usize,
    name: *const c_void,
    dynamic: *const [usize; 2],
    next: AtomicPtr<LinkMap>,
}

/// Finds the loader's count and glibc's function, and has this code never unloaded: handlers of
/// `fork`, of the process's exit and of threads' exits point into it.
pub fn on_load() {
    let (mut rtld_global, mut find_object) = (None, None);
    let (mut is_program, mut stays) = (true, false);
    if IS_MUSL {
        find_first_object();
    }
    let count = for_each_object(|object| {
        rtld_global = rtld_global.or(object.symbol(c"_rtld_global", SymbolType::Object));
        find_object = find_object.or(object.symbol(c"_dl_find_object", SymbolType::Function));
        stays |=
            object.contains(on_load as *const () as usize) && (is_program || object.is_no_delete());
        is_program = false; // the program is the first in the list
        ControlFlow::Continue(())
    });
    if let Some((start, bytes)) = rtld_global {
        // SAFETY: it is the loader's variable of that size, which is never unmapped.
        let words =
            unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(start), bytes / 8) };
        if let Some(word) = find_load_count(words, count) {
            LOAD_COUNT.store(ptr::from_ref(word).cast_mut(), Relaxed);
            let end_of_lock = ptr::from_ref(word)
                .cast_mut()
                .cast::<libc::pthread_mutex_t>();
            TLS_LOCK.store(end_of_lock.wrapping_sub(1), Relaxed);
        }
        if let Some(lock) = find_list_lock(words) {
            LIST_LOCK.store(ptr::from_ref(lock).cast_mut().cast(), Relaxed);
        }
    }
    if let Some((function, _)) = find_object {
        FIND_OBJECT.store(ptr::with_exposed_provenance_mut(function), Relaxed);
    }
    if !stays {
        keep_loaded();
    }
}

/// The word that holds `count` behind a recursive mutex.
fn find_load_count(words: &'static [AtomicU64], count: u64) -> Option<&'static AtomicU64> {
    /// `__kind` in glibc's `pthread_mutex_t`, on every 64-bit processor.
    const KIND_BYTE: usize = 16;
    let mutex_words = mem::size_of::<libc::pthread_mutex_t>() / 8;
    let is_behind_lock = |place: usize| {
        let kind = words[place - mutex_words + KIND_BYTE / 8].load(Relaxed) as u32;
        kind == libc::PTHREAD_MUTEX_RECURSIVE as u32
    };
    let place = (mutex_words..words.len())
        .find(|&place| words[place].load(Relaxed) == count && is_behind_lock(place))?;
    Some(&words[place])
}

/// The recursive mutex that this thread holds once more while it walks the list.
fn find_list_lock(words: &'static [AtomicU64]) -> Option<&'static AtomicU64> {
    // SAFETY: the function has no conditions.
    let this_thread = unsafe { libc::gettid() } as u32;
    // glibc's `pthread_mutex_t` on 64-bit processors, little-endian: lock, count | owner, users |
    // kind.
    let holds = |place: usize| {
        let [lock, owner, kind] = [0, 1, 2].map(|word| words[place + word].load(Relaxed));
        let is_held = lock as u32 != 0 && owner as u32 == this_thread;
        let is_recursive = kind as u32 == libc::PTHREAD_MUTEX_RECURSIVE as u32;
        match is_held && is_recursive {
            true => lock >> 32,
            false => 0,
        }
    };
    let places = 0..words.len() - 2;
    let mut during = [(usize::MAX, 0); 4]; // there are two or three such locks
    for_each_object(|_| {
        let held = places.clone().map(|place| (place, holds(place)));
        for (to, it) in during.iter_mut().zip(held.filter(|it| it.1 > 0)) {
            *to = it;
        }
        ControlFlow::Break(())
    });
    let mut during = during.iter().filter(|it| it.0 != usize::MAX);
    let (place, _) = during.find(|(place, held)| holds(*place) + 1 == *held)?;
    Some(&words[*place])
}

/// [`for_each_object`], unless another thread has the lock of the list for `patience_ms`: a
/// callback of the program may hold it, and wait for this very thread. Else it is held for
/// microseconds, while an object is linked or unlinked.
pub fn try_for_each_object<F: FnMut(&Object) -> ControlFlow<()>>(
    patience_ms: u64,
    each: F,
) -> bool {
    let lock = LIST_LOCK.load(Relaxed);
    if lock.is_null() {
        for_each_object(each);
        return true;
    }
    // SAFETY: it is the loader's mutex, which is never destroyed.
    unsafe {
        let is_locked = match patience_ms {
            0 => libc::pthread_mutex_trylock(lock) == 0, // a wait of no time takes 70 µs
            _ => lock_until(lock, &time_in(patience_ms)),
        };
        if is_locked {
            for_each_object(each);
            libc::pthread_mutex_unlock(lock);
        }
        is_locked
    }
}

/// Calls `f`, which may create a thread, unless that would wait for a `dlopen`.
pub fn try_with_tls_lock<R>(f: impl FnOnce() -> R) -> Option<R> {
    let lock = TLS_LOCK.load(Relaxed);
    if lock.is_null() {
        return Some(f());
    }
    // SAFETY: it is the loader's mutex, a recursive one, which is never destroyed.
    unsafe {
        if libc::pthread_mutex_trylock(lock) != 0 {
            return None;
        }
        let result = f();
        libc::pthread_mutex_unlock(lock);
        Some(result)
    }
}

/// A plug-in that has the static library in it does not itself ask never to be unloaded.
fn keep_loaded() {
    // SAFETY: `dladdr` fills in a local variable; RTLD_NOLOAD loads nothing, and the flag only
    // concerns the object that this code is in.
    unsafe {
        let mut info = mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(on_load as *const c_void, &mut info) != 0 {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
            libc::dlopen(info.dli_fname, flags);
        }
    }
}

/// A number that is another one when the loader has loaded something; 0 where that is unknown. Takes
/// no lock.
#[inline(always)]
pub fn load_count() -> u64 {
    let word = LOAD_COUNT.load(Relaxed);
    // SAFETY: a static, or a word of the loader's data, which is never unmapped.
    let value = unsafe { &*word }.load(Acquire);
    match (IS_MUSL && !ptr::eq(word, &UNKNOWN), value) {
        (false, count) => count,
        (true, 0) => word.addr() as u64, // the end of the list
        (true, _) => PENDING,
    }
}

/// The count when there is something that no walk has seen. It tells no two such moments apart, so
/// nobody may keep it.
pub const PENDING: u64 = u64::MAX - 1;

/// The loader is musl's, which unloads nothing.
pub const IS_MUSL: bool = cfg!(target_env = "musl");

/// The first object in musl's list, the program; NULL in a static one.
static FIRST: AtomicPtr<LinkMap> = AtomicPtr::new(ptr::null_mut());

/// Finds it. Called at load, as it overwrites what `dlerror` tells.
fn find_first_object() {
    unsafe extern "C" {
        fn dlinfo(handle: *mut c_void, request: c_int, map: *mut *mut LinkMap) -> c_int;
    }
    const RTLD_DI_LINKMAP: c_int = 2;
    // SAFETY: `dlopen` takes NULL for the program; `dlinfo` fills in a local variable.
    unsafe {
        let (program, mut map) = (libc::dlopen(ptr::null(), libc::RTLD_LAZY), ptr::null_mut());
        if !program.is_null() && dlinfo(program, RTLD_DI_LINKMAP, &mut map) == 0 {
            FIRST.store(map, Relaxed);
        }
    }
}

/// From now on the count is the word at which the next object follows the last of so many.
fn watch_end_of_list(objects: usize) {
    let mut last = FIRST.load(Relaxed);
    if last.is_null() {
        return;
    }
    // SAFETY: a walk has shown so many objects, each of which stays in the list for ever.
    unsafe {
        for _ in 1..objects {
            last = (*last).next.load(Acquire);
        }
        LOAD_COUNT.store((&raw mut (*last).next).cast(), Relaxed);
    }
}

pub fn is_load_count_known() -> bool {
    !ptr::eq(LOAD_COUNT.load(Relaxed), &UNKNOWN)
}

/// Shows `each` the objects in the order of loading, until it breaks. Returns the loader's count.
/// Takes the lock of the list: `each` must not call into the loader, nor wait for anything.
pub fn for_each_object<F: FnMut(&Object) -> ControlFlow<()>>(each: F) -> u64 {
    struct Walk<F> {
        each: F,
        objects: usize,
        count: u64,
    }
    unsafe extern "C" fn show<F: FnMut(&Object) -> ControlFlow<()>>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        walk: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's description of an object, which stands during the call, and the
        // walk below, which nobody else uses meanwhile.
        unsafe {
            let (info, walk) = (&*info, &mut *walk.cast::<Walk<F>>());
            walk.objects += 1;
            walk.count = info.dlpi_adds;
            if !IS_MUSL && load_count() != info.dlpi_adds {
                // Unknown, or a wrong place. The count can't change during the walk.
                LOAD_COUNT.store((&raw const UNKNOWN).cast_mut(), Relaxed);
            }
            let headers = slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            let object = Object::new(info.dlpi_addr as usize, info.dlpi_name, headers);
            (walk.each)(&object).is_break().into()
        }
    }
    let mut walk = Walk {
        each,
        objects: 0,
        count: 0,
    };
    // SAFETY: `show` gets the walk that it is made for.
    let is_broken = unsafe { libc::dl_iterate_phdr(Some(show::<F>), (&raw mut walk).cast()) } != 0;
    if IS_MUSL && !is_broken {
        watch_end_of_list(walk.objects);
    }
    walk.count
}

/// Copies the name of the file of the object that an address lies in. (What `dladdr` points to is
/// freed with the object.) False if there is no object, or the name is too long.
pub fn copy_file_name(address: usize, to: &mut [c_char]) -> bool {
    let copy = |object: &Object| {
        let name = object.file_name()?.to_bytes_with_nul();
        for (to, &byte) in to.iter_mut().zip(name) {
            *to = byte as c_char;
        }
        Some(name.len() <= to.len())
    };
    with_listed_object_at(address, copy).flatten() == Some(true)
}

/// Whether the object that an address lies in is relocated: a `dlopen` that is under way has
/// come so far that it can't fail any more. glibc 2.34, which does not tell, is asked by a
/// function that waits for its lock.
pub fn is_relocated(address: usize) -> bool {
    match find_object(address) {
        Some(found) => found.is_some(),
        // SAFETY: `dladdr` takes any address and fills in a local variable.
        None => unsafe {
            let mut info = mem::zeroed::<libc::Dl_info>();
            libc::dladdr(ptr::with_exposed_provenance(address), &mut info) != 0
        },
    }
}

/// Calls `f` with the object that an address lies in. Takes no lock, but with glibc 2.34.
///
/// # Safety
/// The object is not unloaded meanwhile; the caller knows that its code has called this library,
/// for example.
pub unsafe fn with_object_at<R>(address: usize, f: impl FnOnce(&Object) -> R) -> Option<R> {
    if let Some(found) = find_object(address) {
        let found = found?;
        // SAFETY: the caller sees to it that the object, and with it its node, stays.
        let object = unsafe {
            let LinkMap { bias, dynamic, .. } = *found.link_map;
            Object::from_parts(bias, found.start.addr()..found.end.addr(), dynamic)
        };
        return Some(f(&object));
    }
    with_listed_object_at(address, f)
}

/// The same by a walk through the list.
fn with_listed_object_at<R>(address: usize, f: impl FnOnce(&Object) -> R) -> Option<R> {
    let (mut f, mut result) = (Some(f), None);
    for_each_object(|object| {
        if !object.contains(address) {
            return ControlFlow::Continue(());
        }
        result = f.take().map(|f| f(object));
        ControlFlow::Break(())
    });
    result
}

/// What glibc says of an address: None where it can't be asked, Some(None) where no relocated
/// object is.
fn find_object(address: usize) -> Option<Option<FoundObject>> {
    let function = FIND_OBJECT.load(Relaxed);
    if function.is_null() {
        return None;
    }
    // SAFETY: it is the function of that name, whose type this is; the struct is plain data.
    unsafe {
        let find = mem::transmute::<*mut c_void, FindObject>(function);
        let mut found = mem::zeroed::<FoundObject>();
        let is_found = find(ptr::with_exposed_provenance_mut(address), &mut found) == 0;
        Some(is_found.then_some(found))
    }
}
