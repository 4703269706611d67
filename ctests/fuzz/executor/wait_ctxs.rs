//! The calls of wait contexts, and the callbacks that these make.

use std::ffi::{c_int, c_void};
use std::ptr;

use harness::functions::{CallbackFn, Callbacks, Pointer};

use super::run::{STEP, emit, with_run};
use super::{ctx_name, emit_code, functions, null_if, pointer};
use crate::event::{Event, UNTOUCHED};
use crate::library::Functions;
use crate::program::{Cleanup, CtxArg, Null, Op};

/// # Safety
/// The library can take the wait context in the variable.
pub unsafe fn call(step: usize, op: Op) {
    let Functions { jobs, .. } = functions();
    // SAFETY: outputs are variables of this function, lists have room for all descriptors; the
    // caller vouches for the context.
    unsafe {
        match op {
            Op::NewCtx(var) => {
                let ctx = (jobs.new)();
                with_run(|run| {
                    let var = &mut run.ctx_vars[usize::from(var)];
                    var.address = ctx.expose_provenance();
                    var.live = true;
                });
                emit_code(step, (!ctx.is_null()).into());
            }
            Op::FreeCtx(ctx) => {
                (jobs.free)(ctx_arg(ctx));
                if let CtxArg::C(var) = ctx {
                    with_run(|run| run.ctx_vars[usize::from(var)].live = false);
                }
            }
            Op::SetFd {
                ctx,
                key,
                fd,
                data,
                cleanup,
            } => {
                with_run(|run| run.most_fds += 1);
                let cleanup = match cleanup {
                    Cleanup::Nothing => None,
                    Cleanup::Plain => Some(cleanup_plain as _),
                    Cleanup::Reads => Some(cleanup_that_reads as _),
                    Cleanup::Clears => Some(cleanup_that_clears as _),
                };
                let (ctx, key, data) = (ctx_arg(ctx), token(key), token(data));
                emit_code(step, (jobs.set_wait_fd)(ctx, key, fd, data, cleanup));
            }
            Op::SetFds {
                ctx,
                key,
                fd,
                count,
            } => {
                with_run(|run| run.most_fds += usize::from(count));
                let (ctx, key) = (ctx_arg(ctx), token(key));
                let set =
                    |nth| (jobs.set_wait_fd)(ctx, key, fd + i32::from(nth), ptr::null_mut(), None);
                emit_code(step, (0..count).map(set).sum());
            }
            Op::GetFd { ctx, key, null } => {
                let (mut fd, mut data) = (UNTOUCHED, pointer(UNTOUCHED as usize));
                let code = (jobs.fd)(
                    ctx_arg(ctx),
                    token(key),
                    null_if(null == Null::First, &mut fd),
                    null_if(null == Null::Second, &mut data),
                );
                let data = data.addr();
                emit(step, &Event::Fd { code, fd, data });
            }
            Op::GetAllFds { ctx, list, null } => {
                let mut fds = List::new(list);
                let count = null_if(null == Null::First, &mut fds.count);
                let code = (jobs.all_fds)(ctx_arg(ctx), fds.as_mut_ptr(), count);
                let (count, fds) = fds.filled(step);
                emit(step, &Event::Fds { code, count, fds });
            }
            Op::GetChangedFds {
                ctx,
                added,
                deleted,
                null,
            } => {
                let (mut added, mut deleted) = (List::new(added), List::new(deleted));
                let code = (jobs.changed_fds)(
                    ctx_arg(ctx),
                    added.as_mut_ptr(),
                    null_if(null == Null::First, &mut added.count),
                    deleted.as_mut_ptr(),
                    null_if(null == Null::Second, &mut deleted.count),
                );
                let (added, deleted) = (added.filled(step), deleted.filled(step));
                emit(
                    step,
                    &Event::Changed {
                        code,
                        added,
                        deleted,
                    },
                );
            }
            Op::ClearFd { ctx, key } => emit_code(step, (jobs.clear_fd)(ctx_arg(ctx), token(key))),
            op => {
                if let Some(callbacks) = &functions().callbacks {
                    call_since_3_0(step, op, callbacks);
                }
            }
        }
    }
}

/// # Safety
/// As for [`call`].
unsafe fn call_since_3_0(step: usize, op: Op, callbacks: &Callbacks) {
    // SAFETY: outputs are variables of this function; the caller vouches for the context. The
    // callback is the one of this file, which can be called with any argument.
    unsafe {
        match op {
            Op::SetCallback { ctx, function, arg } => {
                let function = function.then_some(callback as CallbackFn);
                emit_code(step, (callbacks.set)(ctx_arg(ctx), function, token(arg)));
            }
            Op::CallCallback { ctx, null } => {
                let (mut function, mut arg) = (None, ptr::null_mut());
                let code = (callbacks.get)(
                    ctx_arg(ctx),
                    null_if(null == Null::First, &mut function),
                    null_if(null == Null::Second, &mut arg),
                );
                let called_with = function.map(|function: CallbackFn| function(arg) as usize);
                emit(step, &Event::Callback { code, called_with });
            }
            Op::SetStatus { ctx, status } => {
                emit_code(step, (callbacks.set_status)(ctx_arg(ctx), status));
            }
            Op::GetStatus { ctx } => emit_code(step, (callbacks.status)(ctx_arg(ctx))),
            op => unreachable!("{op:?} is taken elsewhere"),
        }
    }
}

/// Returns its argument.
extern "C" fn callback(arg: Pointer) -> c_int {
    arg.addr() as c_int
}

extern "C" fn cleanup_plain(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    let ctx = ctx_name(ctx);
    let (key, data) = (key.addr(), data.addr());
    emit(STEP.get(), &Event::Cleanup { ctx, key, fd, data });
}

extern "C" fn cleanup_that_reads(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    cleanup_plain(ctx, key, fd, data);
    let Functions { jobs, .. } = functions();
    let (mut fd, mut fds) = (UNTOUCHED, List::new(true));
    // SAFETY: while a context's cleanup routines run, it can be read; the list has room for all.
    unsafe {
        (jobs.fd)(ctx, key, &mut fd, ptr::null_mut());
        (jobs.all_fds)(ctx, fds.as_mut_ptr(), &mut fds.count);
    }
    let (_, fds) = fds.filled(STEP.get());
    emit(STEP.get(), &Event::CalledBack { code: fd, fds });
}

extern "C" fn cleanup_that_clears(ctx: Pointer, key: *const c_void, fd: c_int, data: Pointer) {
    cleanup_plain(ctx, key, fd, data);
    // SAFETY: rsasync lets a cleanup routine use its context; libcrypto may crash.
    let cleared = unsafe { (functions().jobs.clear_fd)(ctx, key) };
    emit(STEP.get(), &Event::Cleared(cleared));
}

/// A list of descriptors for a library to fill in, or NULL, and their number.
struct List {
    list: Option<Vec<c_int>>,
    count: usize,
}

impl List {
    fn new(wanted: bool) -> Self {
        /// Room past the end, in which a write that is out of bounds shows.
        const MARGIN: usize = 8;
        let room = with_run(|run| run.most_fds) + MARGIN;
        Self {
            list: wanted.then(|| vec![UNTOUCHED; room]),
            count: UNTOUCHED as usize,
        }
    }

    fn as_mut_ptr(&mut self) -> *mut c_int {
        self.list.as_mut().map_or(ptr::null_mut(), Vec::as_mut_ptr)
    }

    /// The number and the descriptors that were filled in; shows a write past them.
    fn filled(self, step: usize) -> (usize, Vec<c_int>) {
        let mut fds = self.list.unwrap_or_default();
        let filled = if self.count == UNTOUCHED as usize {
            0
        } else {
            self.count
        };
        if fds.iter().skip(filled).any(|&fd| fd != UNTOUCHED) {
            emit(step, &Event::Overrun);
        }
        fds.truncate(filled);
        (self.count, fds)
    }
}

/// The wait context that is passed.
pub fn ctx_arg(ctx: CtxArg) -> Pointer {
    match ctx {
        CtxArg::C(var) => pointer(with_run(|run| run.ctx_vars[usize::from(var)].address)),
        CtxArg::Null => ptr::null_mut(),
    }
}

/// A key, or a descriptor's data; nobody reads memory there.
fn token(number: u8) -> Pointer {
    ptr::without_provenance_mut(number.into())
}
