// exceptions.cc: C++ exceptions inside jobs, and how they end at the job's outermost frame
// (src/fibre/fibre.rs, src/job/thread.rs).
#include "jobs.h"
#include <csignal>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

// Counts its objects: unwinding that misses a destructor leaves the count too high.
struct Counted {
    static int alive;
    Counted() { alive++; }
    Counted(const Counted &) { alive++; }
    ~Counted() { alive--; }
};
int Counted::alive;

struct Error : std::runtime_error {
    Counted counted;
    int number;
    explicit Error(int n) : std::runtime_error("error " + std::to_string(n)), number(n) {}
};

// One job with a wait context of its own.
class Job {
    ASYNC_JOB *job = nullptr;
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

public:
    int ret = 77;
    ~Job() { ASYNC_WAIT_CTX_free(ctx); }
    int start(int (*func)(void *), int number)
    {
        return ASYNC_start_job(&job, ctx, &ret, func, &number, sizeof number);
    }
    int resume() { return ::resume(&job, &ret); }
};

int number_of(void *arg)
{
    return *static_cast<int *>(arg);
}

void pause_job()
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

void *volatile kept; // an array whose address is stored here is not optimized away

// Throws out of frames that have no object to destroy.
__attribute__((noinline)) void throw_past_arrays(int depth, int number)
{
    char array[500];

    kept = memset(array, depth, sizeof array);
    if (depth == 0)
        throw Error(number);
    throw_past_arrays(depth - 1, number);
    kept = nullptr;
}

// Throws out of `depth` frames with an object to destroy, and then the frames above.
__attribute__((noinline)) void dig_and_throw(int depth, int number)
{
    Counted local;

    if (depth == 0)
        throw_past_arrays(3, number);
    else
        dig_and_throw(depth - 1, number);
}

// Stands for code that is built without a sanitizer, which does not mark its frame's memory in
// AddressSanitizer's shadow. The instrumented memset() that it calls fails if marks of frames that
// no longer exist are left there.
__attribute__((noinline, no_sanitize_address)) void fill_uninstrumented(int size)
{
    unsigned char array[5000];

    memset(array, size, static_cast<size_t>(size));
    CHECK_INT(array[size - 1], static_cast<unsigned char>(size));
}

int throw_and_catch(void *arg)
{
    try {
        dig_and_throw(10, number_of(arg));
    } catch (const Error &e) {
        const std::string what = "error " + std::to_string(e.number);
        CHECK_STR(e.what(), what.c_str());
        fill_uninstrumented(5000);
        // The exception is the only object left.
        CHECK_INT(Counted::alive, 1);
        return e.number;
    }
    return -1;
}

} // namespace

CASE(a_job_can_throw_and_catch, EVERYWHERE,
     "A job that throws in an inner frame catches the exception, and all destructors have run")
{
    Job job;

    CHECK_INT(job.start(throw_and_catch, 5), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(Counted::alive, 0);
    // The same stack again, from the pool.
    CHECK_INT(job.start(throw_and_catch, 6), ASYNC_FINISH);
    CHECK_INT(job.ret, 6);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

namespace {

int pause_inside_try(void *arg)
{
    try {
        Counted local;

        pause_job();
        CHECK_INT(Counted::alive, 1);
        dig_and_throw(3, number_of(arg));
    } catch (const Error &e) {
        return e.number;
    }
    return -1;
}

} // namespace

CASE(a_pause_inside_a_try_block, EVERYWHERE,
     "An exception thrown after a pause is caught by a try block entered before the pause")
{
    Job job;

    CHECK_INT(job.start(pause_inside_try, 5), ASYNC_PAUSE);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

namespace {

int pause_inside_catch(void *arg)
{
    try {
        try {
            dig_and_throw(3, number_of(arg));
        } catch (const Error &e) {
            pause_job();
            CHECK_INT(e.number, number_of(arg));
            CHECK(std::current_exception() != nullptr);
            throw;
        }
    } catch (const Error &e) {
        pause_job();
        const std::string what = "error " + std::to_string(number_of(arg));
        CHECK_STR(e.what(), what.c_str());
        return e.number;
    }
    return -1;
}

} // namespace

CASE(a_pause_inside_a_catch_block, EVERYWHERE,
     "An exception caught before a pause exists after it, and can be thrown again")
{
    Job job;

    CHECK_INT(job.start(pause_inside_catch, 5), ASYNC_PAUSE);
    CHECK_INT(Counted::alive, 1);
    CHECK_INT(job.resume(), ASYNC_PAUSE);
    CHECK_INT(Counted::alive, 1);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(Counted::alive, 0);
    CHECK(std::current_exception() == nullptr);
    ASYNC_cleanup_thread();
}

CASE(the_caller_can_throw_meanwhile, EVERYWHERE,
     "While a job is paused in a catch block, its starter can throw and catch")
{
    Job job;

    CHECK_INT(job.start(pause_inside_catch, 5), ASYNC_PAUSE);
    for (int i = 0; i < 2; i++) {
        int caught = 0;

        try {
            dig_and_throw(3, 6);
        } catch (const Error &e) {
            caught = e.number;
        }
        CHECK_INT(caught, 6);
        CHECK_INT(Counted::alive, 1);
        CHECK_INT(job.resume(), i == 0 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK_INT(job.ret, 5);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

CASE(the_caller_may_be_in_a_catch_block, EVERYWHERE,
     "A job that is started and finished in a catch block leaves that block's exception as it was")
{
    Job job;
    int caught = 0;

    try {
        throw Error(6);
    } catch (const Error &e) {
        CHECK_INT(job.start(pause_inside_catch, 5), ASYNC_PAUSE);
        CHECK_INT(job.resume(), ASYNC_PAUSE);
        CHECK_INT(job.resume(), ASYNC_FINISH);
        CHECK_INT(job.ret, 5);
        CHECK_INT(Counted::alive, 1);
        try {
            throw;
        } catch (const Error &again) {
            CHECK(&again == &e);
            caught = again.number;
        }
    }
    CHECK_INT(caught, 6);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

namespace {

struct PausesWhenDestroyed {
    ~PausesWhenDestroyed() { pause_job(); }
};

int pause_while_unwinding(void *arg)
{
    try {
        PausesWhenDestroyed local;

        dig_and_throw(3, number_of(arg));
    } catch (const Error &e) {
        return e.number;
    }
    return -1;
}

} // namespace

CASE(a_pause_while_unwinding, EVERYWHERE,
     "A destructor that runs during unwinding may pause, and the unwinding goes on after it")
{
    Job job;

    CHECK_INT(job.start(pause_while_unwinding, 5), ASYNC_PAUSE);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(std::uncaught_exceptions(), 0);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

// The C++ runtime keeps one stack of the exceptions being handled for a thread. So jobs may be in
// catch blocks at once only if the last to enter leaves first, on rsasync as on libcrypto.
CASE(jobs_in_catch_blocks_inside_each_other, EVERYWHERE,
     "Of jobs paused in catch blocks, the last to enter leaving first, each has its exception")
{
    Job jobs[20];
    const int count = 20;

    for (int i = 0; i < count; i++)
        CHECK_INT(jobs[i].start(pause_inside_catch, i), ASYNC_PAUSE);
    CHECK_INT(Counted::alive, count);
    for (int i = count - 1; i >= 0; i--) {
        CHECK_INT(jobs[i].resume(), ASYNC_PAUSE);
        CHECK_INT(jobs[i].resume(), ASYNC_FINISH);
        CHECK_INT(jobs[i].ret, i);
        CHECK_INT(Counted::alive, i);
    }
    CHECK(std::current_exception() == nullptr);
    ASYNC_cleanup_thread();
}

namespace {

// Keeps its exception in an exception_ptr across pauses outside any catch block.
int hold_exception(void *arg)
{
    const int number = number_of(arg);
    std::exception_ptr held;

    for (int i = 0; i < 3; i++) {
        pause_job();
        try {
            if (held)
                std::rethrow_exception(held);
            dig_and_throw(3, number);
        } catch (const Error &e) {
            CHECK_INT(e.number, number);
            held = std::current_exception();
        }
        CHECK(std::current_exception() == nullptr);
    }
    return number;
}

} // namespace

CASE(exceptions_held_across_pauses, EVERYWHERE,
     "Jobs that keep exceptions in an exception_ptr may be resumed in any order")
{
    Job jobs[20];
    const int count = 20;

    for (int i = 0; i < count; i++)
        CHECK_INT(jobs[i].start(hold_exception, i), ASYNC_PAUSE);
    CHECK_INT(Counted::alive, 0);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < count; i++) {
            // 7 and 20 are coprime: each round resumes each job once.
            const int j = round % 2 == 0 ? 7 * i % count : count - 1 - i;

            CHECK_INT(jobs[j].resume(), round < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
            if (round == 2)
                CHECK_INT(jobs[j].ret, j);
            if (round == 0)
                CHECK_INT(Counted::alive, i + 1);
        }
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

namespace {

// Each level throws and catches after the job that it started, one level deeper, has finished.
int nest(void *arg)
{
    const int level = number_of(arg);

    try {
        Counted local;

        if (level > 0) {
            Job inner;

            CHECK_INT(inner.start(nest, level - 1), ASYNC_PAUSE);
            CHECK_INT(inner.resume(), ASYNC_FINISH);
            CHECK_INT(inner.ret, level - 1);
        }
        pause_job();
        dig_and_throw(3, level);
    } catch (const Error &e) {
        return e.number;
    }
    return -1;
}

// As nest(), but the inner job runs in the catch block.
int nest_in_catch(void *arg)
{
    const int level = number_of(arg);

    try {
        dig_and_throw(3, level);
    } catch (const Error &e) {
        if (level > 0) {
            Job inner;

            CHECK_INT(inner.start(nest_in_catch, level - 1), ASYNC_PAUSE);
            CHECK_INT(inner.resume(), ASYNC_FINISH);
            CHECK_INT(inner.ret, level - 1);
        }
        pause_job();
        return e.number;
    }
    return -1;
}

} // namespace

// In libcrypto a job that starts another corrupts the thread's state.
CASE(jobs_inside_jobs_throw_each_their_own, OURS,
     "Nested jobs throw and catch, after each other and inside each other's catch blocks")
{
    Job job;

    CHECK_INT(job.start(nest, 3), ASYNC_PAUSE);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 3);
    CHECK_INT(Counted::alive, 0);
    CHECK_INT(job.start(nest_in_catch, 3), ASYNC_PAUSE);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 3);
    CHECK_INT(Counted::alive, 0);
    CHECK(std::current_exception() == nullptr);
    ASYNC_cleanup_thread();
}

namespace {

int throw_out_of_func(void *arg)
{
    pause_job();
    throw Error(number_of(arg));
}

// The job's starter has a catch block, which must not get the exception.
void run_throwing_job()
{
    Job job;

    try {
        job.start(throw_out_of_func, 5);
        job.resume();
    } catch (...) {
    }
}

int start_throwing_job(void *)
{
    run_throwing_job();
    return 5;
}

void run_throwing_job_inside_a_job()
{
    Job job;

    job.start(start_throwing_job, 0);
}

// Runs f in a child, which must write a message to stderr and end by SIGABRT.
void check_aborts(void (*f)(void))
{
    int ends[2], status; // of a pipe
    char buffer[512];
    ssize_t length, message_length = 0;
    pid_t pid;

    CHECK_INT(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        f();
        _exit(0);
    }
    CHECK(pid > 0);
    close(ends[1]);
    while ((length = read(ends[0], buffer, sizeof buffer)) > 0)
        message_length += length;
    close(ends[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status));
    CHECK_INT(WTERMSIG(status), SIGABRT);
    CHECK(message_length > 0);
}

} // namespace

// NOT_ON_VALGRIND, here and below: it writes a message itself when a process aborts.
CASE(an_exception_that_leaves_func_ends_the_process, EVERYWHERE | NOT_ON_VALGRIND,
     "An exception that leaves func aborts the process with a message, even if the starter catches")
{
    check_aborts(run_throwing_job);
}

// In libcrypto a job that starts another corrupts the thread's state.
CASE(an_exception_does_not_leave_an_inner_job, OURS | NOT_ON_VALGRIND,
     "An exception that leaves an inner job's func aborts the process, and the outer gets nothing")
{
    check_aborts(run_throwing_job_inside_a_job);
}
