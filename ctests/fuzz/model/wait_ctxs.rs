//! Wait contexts in the model.

use super::{Allowed, Model, func};
use crate::event::{Ctx, Event, UNTOUCHED};
use crate::program::{Cleanup, CtxArg, Null, Op};
use crate::readme_table::Row;

#[derive(Clone)]
pub struct WaitCtx {
    pub freed: bool,
    /// Another was made since this one was freed, and may have its memory.
    reused: bool,
    /// The newest last.
    entries: Vec<Entry>,
    /// The callback's argument; there is only one callback.
    pub callback: Option<u8>,
    pub status: i32,
    /// The variable that it was made for, which names it in events.
    pub variable: u8,
}

#[derive(Clone)]
struct Entry {
    key: u8,
    fd: i32,
    data: u8,
    cleanup: Cleanup,
    mark: Mark,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Added,
    Deleted,
}

impl Model<'_> {
    pub fn apply_to_ctx(&mut self, op: &Op) -> Allowed<()> {
        match *op {
            Op::NewCtx(variable) => self.new_ctx(variable)?,
            Op::FreeCtx(ctx) => self.free_ctx(ctx)?,
            Op::SetFd {
                ctx,
                key,
                fd,
                data,
                cleanup,
            } => {
                let Some(ctx) = self.ctx_or_refusal(ctx, func::SET_WAIT_FD, Event::Code(0))? else {
                    return Some(());
                };
                self.contexts[ctx].add(key, fd, data, cleanup);
                self.code(1);
            }
            Op::SetFds {
                ctx,
                key,
                fd,
                count,
            } => {
                let ctx = self.ctx(ctx)??;
                for nth in 0..count {
                    self.contexts[ctx].add(key, fd + i32::from(nth), 0, Cleanup::Nothing);
                }
                self.code(count.into());
            }
            Op::GetFd { ctx, key, null } => self.get_fd(ctx, key, null)?,
            Op::GetAllFds { ctx, list, null } => self.get_all_fds(ctx, list, null)?,
            Op::GetChangedFds {
                ctx,
                added,
                deleted,
                null,
            } => self.get_changed_fds(ctx, added, deleted, null)?,
            Op::ClearFd { ctx, key } => {
                let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, Event::Code(0))? else {
                    return Some(());
                };
                let cleared = self.contexts[ctx].clear(key);
                self.code(cleared.into());
            }
            ref op => {
                self.features.callbacks.then_some(())?;
                self.apply_to_callback(op)?;
            }
        }
        Some(())
    }

    fn apply_to_callback(&mut self, op: &Op) -> Allowed<()> {
        match *op {
            Op::SetCallback { ctx, function, arg } => {
                // The one call where libcrypto refuses NULL itself; it queues nothing.
                let ctx = self.ctx(ctx)?;
                if let Some(ctx) = ctx {
                    self.contexts[ctx].callback = function.then_some(arg);
                }
                self.code(ctx.is_some().into());
            }
            Op::CallCallback { ctx, null } => self.call_callback(ctx, null)?,
            Op::SetStatus { ctx, status } => {
                let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, Event::Code(0))? else {
                    return Some(());
                };
                self.contexts[ctx].status = status;
                self.code(1);
            }
            Op::GetStatus { ctx } => {
                let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, Event::Code(0))? else {
                    return Some(());
                };
                self.code(self.contexts[ctx].status);
            }
            ref op => unreachable!("{op:?} has nothing to do with wait contexts"),
        }
        Some(())
    }

    fn new_ctx(&mut self, variable: u8) -> Allowed<()> {
        if self.holds_ctx(variable) {
            return None; // the program could not free the old one any more
        }
        for ctx in &mut self.contexts {
            ctx.reused |= ctx.freed;
        }
        self.ctx_vars[usize::from(variable)] = Some(self.contexts.len());
        self.contexts.push(WaitCtx {
            freed: false,
            reused: false,
            entries: Vec::new(),
            callback: None,
            status: 0,
            variable,
        });
        self.code(1);
        Some(())
    }

    fn free_ctx(&mut self, ctx: CtxArg) -> Allowed<()> {
        let CtxArg::C(variable) = ctx else {
            return Some(());
        };
        let Some(ctx) = self.ctx_vars[usize::from(variable)] else {
            return Some(());
        };
        if self.contexts[ctx].freed {
            self.reaches(Row::FreedTwice);
            return (!self.contexts[ctx].reused).then_some(());
        }
        while let Some(at) = self.contexts[ctx].newest(|_| true) {
            let entry = self.contexts[ctx].entries[at].clone();
            if entry.cleanup != Cleanup::Nothing {
                self.event(Event::Cleanup {
                    ctx: Ctx::C(variable),
                    key: entry.key.into(),
                    fd: entry.fd,
                    data: entry.data.into(),
                });
            }
            match entry.cleanup {
                Cleanup::Nothing | Cleanup::Plain => {}
                Cleanup::Reads => {
                    self.reaches(Row::CallsBack);
                    let fds = self.contexts[ctx].fds(|mark| mark != Mark::Deleted);
                    self.event(Event::CalledBack {
                        code: entry.fd,
                        fds,
                    });
                }
                Cleanup::Clears => {
                    self.reaches(Row::CallsBack);
                    self.event(Event::Cleared(1));
                }
            }
            self.contexts[ctx].entries.remove(at);
        }
        self.contexts[ctx].freed = true;
        Some(())
    }

    fn get_fd(&mut self, ctx: CtxArg, key: u8, null: Null) -> Allowed<()> {
        let event = |code, fd, data| Event::Fd { code, fd, data };
        let refusal = event(0, UNTOUCHED, UNTOUCHED as usize);
        let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, refusal.clone())? else {
            return Some(());
        };
        if null == Null::First {
            self.refuse_null(func::NONE, refusal);
            return Some(());
        }
        let found = self.contexts[ctx].newest(|entry| entry.key == key);
        let Some(at) = found else {
            self.event(refusal);
            return Some(());
        };
        let Entry { fd, data, .. } = self.contexts[ctx].entries[at];
        if null == Null::Second {
            self.reaches(Row::Nulls);
            self.event(event(1, fd, UNTOUCHED as usize));
        } else {
            self.event(event(1, fd, data.into()));
        }
        Some(())
    }

    fn get_all_fds(&mut self, ctx: CtxArg, list: bool, null: Null) -> Allowed<()> {
        let refusal = Event::Fds {
            code: 0,
            count: UNTOUCHED as usize,
            fds: Vec::new(),
        };
        let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, refusal.clone())? else {
            return Some(());
        };
        if null == Null::First {
            self.refuse_null(func::NONE, refusal);
            return Some(());
        }
        let fds = self.contexts[ctx].fds(|mark| mark != Mark::Deleted);
        self.event(Event::Fds {
            code: 1,
            count: fds.len(),
            fds: if list { fds } else { Vec::new() },
        });
        Some(())
    }

    fn get_changed_fds(
        &mut self,
        ctx: CtxArg,
        added: bool,
        deleted: bool,
        null: Null,
    ) -> Allowed<()> {
        let nothing = (UNTOUCHED as usize, Vec::new());
        let refusal = Event::Changed {
            code: 0,
            added: nothing.clone(),
            deleted: nothing,
        };
        let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, refusal.clone())? else {
            return Some(());
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(func::NONE, refusal);
            return Some(());
        }
        let list = |wanted, list: bool| {
            let fds = self.contexts[ctx].fds(|mark| mark == wanted);
            (fds.len(), if list { fds } else { Vec::new() })
        };
        let event = Event::Changed {
            code: 1,
            added: list(Mark::Added, added),
            deleted: list(Mark::Deleted, deleted),
        };
        self.event(event);
        Some(())
    }

    fn call_callback(&mut self, ctx: CtxArg, null: Null) -> Allowed<()> {
        let refusal = Event::Callback {
            code: 0,
            called_with: None,
        };
        let Some(ctx) = self.ctx_or_refusal(ctx, func::NONE, refusal.clone())? else {
            return Some(());
        };
        if matches!(null, Null::First | Null::Second) {
            self.refuse_null(func::NONE, refusal);
            return Some(());
        }
        let callback = self.contexts[ctx].callback;
        self.event(Event::Callback {
            code: callback.is_some().into(),
            called_with: callback.map(usize::from),
        });
        Some(())
    }
}

impl WaitCtx {
    fn add(&mut self, key: u8, fd: i32, data: u8, cleanup: Cleanup) {
        self.entries.push(Entry {
            key,
            fd,
            data,
            cleanup,
            mark: Mark::Added,
        });
    }

    /// The newest wanted entry that is not marked deleted.
    fn newest(&self, wanted: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries
            .iter()
            .rposition(|entry| entry.mark != Mark::Deleted && wanted(entry))
    }

    /// The descriptors of entries with wanted marks, the newest first.
    fn fds(&self, wanted: impl Fn(Mark) -> bool) -> Vec<i32> {
        let entries = self.entries.iter().rev();
        let wanted = entries.filter(|entry| wanted(entry.mark));
        wanted.map(|entry| entry.fd).collect()
    }

    /// Clears the newest descriptor of a key; says whether there was one.
    fn clear(&mut self, key: u8) -> bool {
        let Some(at) = self.newest(|entry| entry.key == key) else {
            return false;
        };
        if self.entries[at].mark == Mark::Added {
            self.entries.remove(at);
        } else {
            self.entries[at].mark = Mark::Deleted;
        }
        true
    }

    /// Clears all marks, as the resume of a job does.
    pub fn clear_marks(&mut self) {
        self.entries.retain(|entry| entry.mark != Mark::Deleted);
        for entry in &mut self.entries {
            entry.mark = Mark::None;
        }
    }
}
