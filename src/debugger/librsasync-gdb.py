"""gdb commands for rsasync's jobs, in a running process and in a core file.

    info async-jobs             the jobs, and where each is
    async-job N                 selects a job: bt, up, frame, info locals show its frames
    async-job apply all bt      a command for all jobs, or for some: async-job apply 1 3 bt

The script needs neither symbols nor debug information of the library. It reads what src/inspect.rs
describes, found by the ELF note "rsasync" of the library or of a program linked with it.

gdb can't add a thread, and can't set registers of a core file. So the frames of a paused job are
shown as callers of the innermost frame of its thread: an unwinder leads there, and a frame filter
hides that frame. Frames of a job are numbered from 1. To leave a job, select frame 0 or a thread,
or let the program go on.
"""

import collections
import contextlib
import re
import struct

import gdb
import gdb.unwinder


def read(address, size):
    return gdb.selected_inferior().read_memory(address, size).tobytes()


def words(address, count=1):
    return struct.unpack("<%dQ" % count, read(address, 8 * count))


def word(address):
    return words(address)[0]


# ---- the processor -----------------------------------------------------------------------------


class X86_64:
    """How jump_fcontext (of the context crate) saves a context on x86-64."""

    pc, sp = "rip", "rsp"
    # Offsets in a saved context; what was pushed on the stack there has CONTEXT_BYTES.
    saved = {"r12": 0x08, "r13": 0x10, "r14": 0x18, "r15": 0x20, "rbx": 0x28, "rbp": 0x30}
    pc_offset = 0x38
    context_bytes = 0x40
    # The beginning of jump_fcontext's code: lea -0x38(%rsp),%rsp; stmxcsr (%rsp); ...
    jump_code = bytes.fromhex("488d6424c80fae1c24d97c24044c89642408")
    jump_bytes = 0x6A
    # From here on jump_fcontext is on the other stack.
    switched = 0x31
    # Registers with a saved context that is not in memory: one that was left, one to be entered.
    in_flight = ("rax", "rdi")

    @staticmethod
    def return_address(context, _registers):
        return word(context + X86_64.pc_offset)

    @staticmethod
    def context_in_jump(offset, sp):
        """The address of the context of the stack that jump_fcontext is on, at this instruction."""
        if offset == 0:
            return sp - 0x38  # before the first lea
        return sp - 0x40 if offset >= 0x61 else sp  # after the last one


class Aarch64:
    """The same on 64-bit ARM, without the floating-point registers, which lead to no frame."""

    pc, sp = "pc", "sp"
    saved = {"x%d" % number: 0x40 + 8 * (number - 19) for number in range(19, 31)}
    pc_offset = 0xA0
    context_bytes = 0xB0
    # sub sp, sp, #0xb0; stp d8, d9, [sp]; stp d10, d11, [sp, #16]
    jump_code = bytes.fromhex("ffc302d1e827006dea2f016d")
    jump_bytes = 0x70
    switched = 0x38
    in_flight = ("x4", "x0")

    @staticmethod
    def return_address(_context, registers):
        return registers["x30"]

    @staticmethod
    def context_in_jump(offset, sp):
        return sp - 0xB0 if offset == 0 or offset >= 0x6C else sp


def processor_of(frame):
    return Aarch64 if frame.architecture().name().startswith("aarch64") else X86_64


def processor():
    return processor_of(gdb.selected_frame())


def registers_saved_in(context, cpu):
    """The registers of whoever saved this context."""
    data = read(context, cpu.context_bytes)
    at = lambda offset: struct.unpack_from("<Q", data, offset)[0]
    registers = {name: at(offset) for name, offset in cpu.saved.items()}
    registers[cpu.pc] = at(cpu.pc_offset)
    registers[cpu.sp] = context + cpu.context_bytes
    return registers


# ---- the library's state ------------------------------------------------------------------------

STATE_VERSION = 1

# The words of `State` in src/inspect.rs.
State = collections.namedtuple(
    "State",
    """magic version bytes library_version_1 library_version_2
    stack_bytes reclaim_orphans_ms switches_on
    stack_slots guard_bytes job_bytes job_slots record_slots other_threads
    stacks_made stacks_freed stacks_unguarded stacks_peak deepest_bytes
    jobs_abandoned orphans_reclaimed refusals no_jobs
    newest older slots slot_bytes header_bytes bits bits_stride taken
    handle address_mask owner state switches pause_blocks suspended func
    wait_ctx wait_ctx_generation frames_start frames_end
    record_id record_tid record_counts
    ctx_generation""",
)


class Elf:
    """An object of the program, read from memory, where it begins with its ELF header."""

    LOAD, DYNAMIC, NOTE = 1, 2, 4
    EXECUTABLE = 1  # a flag of a segment

    def __init__(self, header):
        self.header = header
        ident = read(header, 64)
        if ident[:6] != b"\x7fELF\x02\x01":
            raise gdb.MemoryError("no 64-bit ELF file at %#x" % header)
        (table,) = struct.unpack_from("<Q", ident, 32)
        size, count = struct.unpack_from("<HH", ident, 54)
        table = read(header + table, size * count)
        entry = struct.Struct("<IIQQQQQQ")
        segments = [entry.unpack_from(table, size * index) for index in range(count)]
        first = min(vaddr for kind, _, _, vaddr, *_ in segments if kind == self.LOAD)
        self.bias = header - (first & ~0xFFF)
        # Type, flags, address, bytes in memory.
        self.segments = [
            (kind, flags, self.bias + vaddr, bytes_in_memory)
            for kind, flags, _, vaddr, _, _, bytes_in_memory, _ in segments
        ]

    def code(self):
        return [
            (start, start + size)
            for kind, flags, start, size in self.segments
            if kind == self.LOAD and flags & self.EXECUTABLE
        ]

    def state(self):
        """The address of rsasync's state, or None."""
        for kind, _, start, size in self.segments:
            if kind != self.NOTE:
                continue
            notes, offset = read(start, size), 0
            while offset + 12 <= size:
                name_bytes, desc_bytes, note_type = struct.unpack_from("<III", notes, offset)
                name = offset + 12
                desc = name + (name_bytes + 3 & ~3)
                if notes[name : name + name_bytes] == b"rsasync\0" and note_type == 1:
                    return start + desc + struct.unpack_from("<q", notes, desc)[0]
                offset = desc + (desc_bytes + 3 & ~3)
        return None

    def link_map(self):
        """Where the dynamic loader has put the other objects."""
        DT_DEBUG = 21
        for kind, _, start, size in self.segments:
            if kind == self.DYNAMIC:
                entries = words(start, size // 8)
                debug = dict(zip(entries[::2], entries[1::2])).get(DT_DEBUG, 0)
                entry = word(debug + 8) if debug else 0
                seen = set()  # a torn core may have a circle
                while entry and entry not in seen:
                    seen.add(entry)
                    address, _, _, entry = words(entry, 4)
                    yield address


class Library:
    """A copy of rsasync in the program: the shared library, or the program linked with it."""

    def __init__(self, elf, state, is_program):
        version = word(state + 8)
        if version != STATE_VERSION:
            raise gdb.GdbError(
                "rsasync's state has version %d, this script knows %d: "
                "use the script of the library's own version" % (version, STATE_VERSION)
            )
        self.state = State(*words(state, len(State._fields)))
        self.code = elf.code()
        self.is_program = is_program
        self.jumps = []
        with contextlib.suppress(gdb.MemoryError):  # a core file without the library's file
            for start, end in self.code:
                code, offset = read(start, end - start), -1
                while True:
                    offset = code.find(processor().jump_code, offset + 1)
                    if offset < 0:
                        break
                    self.jumps.append(start + offset)

    def contains(self, frame):
        """Whether a frame is one of the library's functions."""
        if self.is_program:
            return (frame.name() or "?").startswith(("ASYNC_", "rsasync::", "?"))
        return any(start <= frame.pc() < end for start, end in self.code)

    def slots(self, pool):
        """The addresses of the slots of a pool that are taken."""
        state, regions = self.state, []
        region = word(pool + state.newest)
        while region and region not in regions:
            regions.insert(0, region)
            region = word(region + state.older)
        for region in regions:
            count = word(region + state.slots)
            slot_bytes = word(region + state.slot_bytes)
            first = region + word(region + state.header_bytes)
            size = (count + 63) // 64 * state.bits_stride
            bits = read(region + state.bits, size)
            for index in range(count):
                offset = index // 64 * state.bits_stride + state.taken
                if struct.unpack_from("<Q", bits, offset)[0] >> index % 64 & 1:
                    yield first + index * slot_bytes, first + (index + 1) * slot_bytes

    def jobs(self):
        places = [end - self.state.job_bytes for _, end in self.slots(self.state.stack_slots)]
        places += [start for start, _ in self.slots(self.state.job_slots)]
        tids = self.thread_ids()
        for place in places:
            with contextlib.suppress(gdb.MemoryError):
                job = Job(self, place, tids)
                if job.handle & self.state.address_mask == place:
                    yield job

    def thread_ids(self):
        """The kernel's numbers of threads, by the numbers that jobs' owners have."""
        tids = {}
        for start, _ in self.slots(self.state.record_slots):
            owner = word(start + self.state.record_id)
            tids[owner] = struct.unpack("<i", read(start + self.state.record_tid, 4))[0]
        return tids


def libraries():
    """The copies of rsasync in the program."""
    if not gdb.selected_inferior().threads():
        raise gdb.GdbError("There is no process and no core file.")
    auxv = gdb.execute("info auxv", to_string=True)
    found = re.search(r"^3\s.*\s(0x[0-9a-f]+)\s*$", auxv, re.MULTILINE)
    if not found:
        raise gdb.GdbError("The program's auxiliary vector has no AT_PHDR.")
    ELF_HEADER_BYTES = 64
    program = Elf(int(found.group(1), 16) - ELF_HEADER_BYTES)
    all_libraries = []
    for header in [program.header, *program.link_map()]:
        with contextlib.suppress(gdb.MemoryError):
            elf = Elf(header)
            state = elf.state()
            if state is not None:
                all_libraries.append(Library(elf, state, header == program.header))
    if not all_libraries:
        raise gdb.GdbError("The program has no rsasync.")
    unwinder.jumps = [jump for library in all_libraries for jump in library.jumps]
    return all_libraries


def tid_in_container(thread):
    """A thread's number as the process itself sees it."""
    with contextlib.suppress(OSError):
        with open("/proc/%d/task/%d/status" % thread.ptid[:2], encoding="ascii") as status:
            for line in status:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    return None


# ---- jobs ---------------------------------------------------------------------------------------


class Job:
    IDLE, TRIMMED, RUNNING, PAUSED = range(4)

    # The numbers that the user knows jobs by; a job keeps its number.
    numbers = {}

    def __init__(self, library, place, tids):
        state = library.state
        data = read(place, state.job_bytes)
        at = lambda offset: struct.unpack_from("<Q", data, offset)[0]
        self.library = library
        self.handle = at(state.handle)
        self.suspended = at(state.suspended)
        self.func = at(state.func)
        self.ctx = at(state.wait_ctx)
        self.ctx_generation = at(state.wait_ctx_generation)
        self.frames_start = at(state.frames_start)
        self.frames_end = at(state.frames_end)
        self.owner = at(state.owner)
        self.tid = tids.get(self.owner)
        self.state = min(data[state.state], self.PAUSED)

    @property
    def number(self):
        return self.numbers.setdefault(self.handle, len(self.numbers) + 1)

    def is_idle(self):
        return self.state in (self.IDLE, self.TRIMMED)

    def state_name(self):
        if self.state == self.RUNNING:
            return "running"
        if not self.ctx:
            return "paused"
        generation = word(self.ctx + self.library.state.ctx_generation)
        is_orphaned = self.ctx_generation == 0 or self.ctx_generation != generation
        return "orphaned" if is_orphaned else "paused"

    def thread(self):
        """The thread that may resume the job; None if it has exited."""
        if self.tid is None:
            return None
        threads = gdb.selected_inferior().threads()
        for tid_of in (lambda thread: thread.ptid[1], tid_in_container):
            for thread in threads:
                if self.tid == tid_of(thread):
                    return thread
        return None

    def thread_name(self):
        thread = self.thread()
        return str(thread.num) if thread else "exited"

    def title(self):
        return "job %d (%s, thread %s)" % (self.number, self.state_name(), self.thread_name())

    def function(self):
        symbol = gdb.execute("info symbol %#x" % self.func, to_string=True)
        return symbol.split(" in section ")[0] if " in section " in symbol else "%#x" % self.func

    def holds(self, address):
        """Whether an address lies in the job's frames."""
        return self.frames_start <= address < self.frames_end

    def is_selected(self):
        frame = gdb.selected_frame()
        return self.holds(int(frame.read_register(processor().sp)))

    def select(self, jobs):
        """Selects the job's innermost frame."""
        unwinder.show(None)
        thread = self.thread()
        context = self.context(jobs)
        if context is None:
            if thread is None or not self.select_frame_of(thread):
                raise gdb.GdbError("Job %d has no frames any more." % self.number)
            return
        if thread:
            thread.switch()
        unwinder.show(View(registers_saved_in(context, processor())))
        frame = gdb.newest_frame()
        while frame and not self.holds(int(frame.read_register(processor().sp))):
            frame = frame.older()
        if not frame:
            raise gdb.GdbError("Job %d: gdb can't unwind its frames." % self.number)
        frame.select()

    def context(self, jobs):
        """Where the job's registers are saved; None if some thread has them."""
        if self.holds(self.suspended):
            return self.suspended
        # A job that waits for one that it started or resumed: the context is that one's dispatcher's.
        started = (job.suspended for job in jobs if not job.is_idle())
        context = next((context for context in started if self.holds(context)), None)
        if context is not None:
            return context
        # A switch from or to the job is in flight.
        thread = self.thread()
        is_in_flight = any(job.suspended == 0 and job.owner == self.owner for job in jobs)
        if not is_in_flight or thread is None:
            return None
        thread.switch()
        frame, cpu = gdb.newest_frame(), processor()
        if self.holds(int(frame.read_register(cpu.sp))):
            return None
        contexts = (int(frame.read_register(name)) for name in cpu.in_flight)
        return next((context for context in contexts if self.holds(context)), None)

    def select_frame_of(self, thread):
        """Selects the innermost frame of the thread that is in the job; False if there is none."""
        thread.switch()
        frame = gdb.newest_frame()
        while frame:
            if self.holds(int(frame.read_register(processor().sp))):
                frame.select()
                return True
            frame = frame.older()  # a signal handler on a stack of its own
        return False

    def place(self, jobs):
        """The job's innermost frame outside of the library, as a text."""
        MOST_FRAMES = 8
        try:
            self.select(jobs)
            innermost = frame = gdb.selected_frame()
            for _ in range(MOST_FRAMES):
                if frame and self.library.contains(frame):
                    frame = frame.older()
            frame = frame or innermost
            name = frame.name() or "%#x" % frame.pc()
            line = frame.find_sal()
            if line.symtab and line.line:
                return "%s at %s:%d" % (name, line.symtab.filename, line.line)
            return name
        except (gdb.error, gdb.GdbError) as error:
            return "? (%s)" % error


def all_jobs():
    all_libraries = libraries()
    jobs = [job for library in all_libraries for job in library.jobs()]
    stacks = sum(
        word(library.state.stacks_made) - word(library.state.stacks_freed)
        for library in all_libraries
    )
    if stacks and not jobs:
        raise gdb.GdbError(
            "%d stacks are in use, and no job can be read. The core file lacks the stacks of jobs "
            "if it is from gcore of an older gdb, which leaves out mappings with guard pages: have "
            "the kernel write it (kill -ABRT)." % stacks
        )
    return jobs


# ---- frames -------------------------------------------------------------------------------------


class View:
    """The frames of a job that stand in place of the selected thread's."""

    def __init__(self, registers):
        frame, cpu = gdb.newest_frame(), processor()
        self.ptid = gdb.selected_thread().ptid
        self.thread_sp = int(frame.read_register(cpu.sp))
        self.thread_pc = int(frame.read_register(cpu.pc))
        self.registers = registers

    def hides(self, frame):
        """Whether a frame is the thread's own innermost one."""
        thread = gdb.selected_thread()
        sp = int(frame.read_register(processor().sp))
        return thread is not None and thread.ptid == self.ptid and sp == self.thread_sp


FrameId = collections.namedtuple("FrameId", "sp pc")


class Unwinder(gdb.unwinder.Unwinder):
    """Leads from a thread's innermost frame to a job's frames, and out of jump_fcontext, whose own
    unwind information ends there."""

    def __init__(self):
        super().__init__("rsasync")
        self.view = None
        self.jumps = []

    def show(self, view):
        if view is not self.view:
            self.view = view
            job_filter.enabled = view is not None
            gdb.invalidate_cached_frames()

    def offset_in_jump(self, pc, cpu):
        """How far in jump_fcontext an address is; None outside."""
        offsets = (pc - jump for jump in self.jumps)
        return next((offset for offset in offsets if 0 <= offset < cpu.jump_bytes), None)

    def __call__(self, frame):
        if not self.view and not self.jumps:
            return None
        cpu = processor_of(frame)  # (no frame can be selected while one is unwound)
        sp, pc = (int(frame.read_register(name)) for name in (cpu.sp, cpu.pc))
        thread, view = gdb.selected_thread(), self.view
        if view and thread and thread.ptid == view.ptid:
            if (sp, pc) == (view.thread_sp, view.thread_pc):
                # Of a lower address than the job's frames, as gdb expects of a callee's.
                lowest = view.registers[cpu.sp] - cpu.context_bytes
                return self.caller(frame, cpu, lowest, pc, view.registers)
        offset = self.offset_in_jump(pc, cpu)
        if offset is None or read(pc - offset, len(cpu.jump_code)) != cpu.jump_code:
            return None  # (another program may have something else there)
        context = cpu.context_in_jump(offset, sp)
        end = context + cpu.context_bytes
        if offset >= cpu.switched:
            registers = registers_saved_in(context, cpu)
        else:
            registers = {name: int(frame.read_register(name)) for name in cpu.saved}
            registers[cpu.pc] = cpu.return_address(context, registers)
            registers[cpu.sp] = end
        return self.caller(frame, cpu, end, pc - offset, registers)

    @staticmethod
    def caller(frame, cpu, end, pc, registers):
        """The frame's stack ends here and its function is at `pc`; its caller has these registers."""

        def value(name, number):
            return gdb.Value(struct.pack("<Q", number), frame.read_register(name).type)

        info = frame.create_unwind_info(FrameId(value(cpu.sp, end), value(cpu.pc, pc)))
        for name, number in registers.items():
            info.add_saved_register(name, value(name, number))
        return info


class Filter:
    """Hides the innermost frame of a thread that stands for a job."""

    name, priority, enabled = "rsasync", 100, False

    def filter(self, frames):
        view = unwinder.view
        return (frame for frame in frames if not view.hides(frame.inferior_frame()))


def leave_job(_event=None):
    unwinder.show(None)


def forget_jobs(_event=None):
    leave_job()
    unwinder.jumps = []
    Job.numbers.clear()


def leave_job_if_asked():
    """The user selected another thread, or frame 0: a job's frames begin after that."""
    view, thread = unwinder.view, gdb.selected_thread()
    if not view:
        return
    is_other = thread is None or thread.ptid != view.ptid
    if is_other or view.hides(gdb.selected_frame()):
        unwinder.show(None)
        if not is_other:
            gdb.newest_frame().select()


@contextlib.contextmanager
def selection_kept():
    """The user's thread, job and frame are selected afterwards as they were before."""
    thread, view, frame = gdb.selected_thread(), unwinder.view, gdb.selected_frame()
    try:
        yield
    finally:
        if thread.is_valid() and gdb.selected_inferior().threads():
            thread.switch()
            unwinder.show(view)
            if frame.is_valid():
                frame.select()


# ---- commands -----------------------------------------------------------------------------------


class InfoAsyncJobs(gdb.Command):
    """Show the asynchronous jobs that run or are paused.
An orphaned job is paused, and its wait context was freed."""

    def __init__(self):
        super().__init__("info async-jobs", gdb.COMMAND_STATUS)

    def invoke(self, _argument, _from_tty):
        jobs = all_jobs()
        rows = [("", "Num", "State", "Thread", "Handle", "Function", "Where")]
        selected = {job.handle for job in jobs if not job.is_idle() and job.is_selected()}
        with selection_kept():
            for job in jobs:
                if job.is_idle():
                    continue
                mark = "*" if job.handle in selected else ""
                state, handle = job.state_name(), "%#x" % job.handle
                function, place = job.function(), job.place(jobs)
                number = str(job.number)
                rows.append((mark, number, state, job.thread_name(), handle, function, place))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        if len(rows) > 1:
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths))
                gdb.write(" ".join(cells).rstrip() + "\n")
        else:
            gdb.write("No job runs or is paused.\n")
        idle = sum(job.is_idle() for job in jobs)
        if idle:
            gdb.write("Idle: %d\n" % idle)


def job_of_number(jobs, text):
    try:
        number = int(text, 0)
    except ValueError:
        raise gdb.GdbError("%s is no number of a job." % text) from None
    for job in jobs:
        if not job.is_idle() and number in (job.number, job.handle):
            return job
    raise gdb.GdbError("There is no job %s; see `info async-jobs`." % text)


def numbered(jobs):
    """Gives each job its number: those that were seen before keep theirs."""
    for job in jobs:
        if not job.is_idle():
            job.number  # pylint: disable=pointless-statement
    return jobs


class AsyncJob(gdb.Command):
    """Select an asynchronous job: its frames are those that `bt`, `frame`, `up` and others show.
Usage: async-job [N]
N is a number of `info async-jobs`, or a handle. Without it, the selected job is shown.
To leave the job, select frame 0 or a thread."""

    def __init__(self):
        super().__init__("async-job", gdb.COMMAND_STACK, gdb.COMPLETE_NONE, True)

    def invoke(self, argument, _from_tty):
        jobs = numbered(all_jobs())
        if not argument.strip():
            selected = [job for job in jobs if not job.is_idle() and job.is_selected()]
            text = "Current job is %s" % selected[0].title() if selected else "No job is selected"
            gdb.write("[%s]\n" % text)
            return
        job = job_of_number(jobs, argument.strip())
        job.select(jobs)
        gdb.write("[Switching to %s]\n" % job.title())
        gdb.execute("frame")


class AsyncJobApply(gdb.Command):
    """Apply a command to asynchronous jobs.
Usage: async-job apply all COMMAND
       async-job apply N [N...] COMMAND"""

    def __init__(self):
        super().__init__("async-job apply", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        match = re.match(r"\s*(all|(?:(?:0x[0-9a-f]+|\d+)\s+)*(?:0x[0-9a-f]+|\d+))\s+(\S.*)", argument)
        if not match:
            raise gdb.GdbError("Usage: async-job apply all|N... COMMAND")
        jobs = numbered(all_jobs())
        if match.group(1) == "all":
            chosen = [job for job in jobs if not job.is_idle()]
        else:
            chosen = [job_of_number(jobs, text) for text in match.group(1).split()]
        with selection_kept():
            for job in sorted(chosen, key=lambda job: job.number):
                title = job.title()
                gdb.write("\n%s:\n" % (title[0].upper() + title[1:]))
                try:
                    job.select(jobs)
                    gdb.execute(match.group(2), from_tty)
                except (gdb.error, gdb.GdbError) as error:
                    gdb.write("%s\n" % error)


unwinder = Unwinder()
gdb.unwinder.register_unwinder(None, unwinder, replace=True)
job_filter = Filter()
gdb.frame_filters[Filter.name] = job_filter
gdb.events.cont.connect(leave_job)
gdb.events.exited.connect(forget_jobs)
gdb.events.before_prompt.connect(leave_job_if_asked)
InfoAsyncJobs()
AsyncJob()
AsyncJobApply()
