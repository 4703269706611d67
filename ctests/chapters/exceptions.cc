// exceptions.cc: C++ exceptions inside jobs.
#include "check.h"
#include <csignal>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

// Counts those that live, so that what unwinding forgets is seen.
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
    int resume() { return ASYNC_start_job(&job, ctx, &ret, nullptr, nullptr, 0); }
};

int number_of(void *arg)
{
    return *static_cast<int *>(arg);
}

void pause_job()
{
    CHECK_INT(ASYNC_pause_job(), 1);
}

void *volatile newest; // what is put there must exist as it is written

// Throws over frames in which nothing is to be done.
__attribute__((noinline)) void throw_past_arrays(int depth, int number)
{
    char array[500];

    newest = memset(array, depth, sizeof array);
    if (depth == 0)
        throw Error(number);
    throw_past_arrays(depth - 1, number);
    newest = nullptr;
}

// Throws from some frames below, most with an object to destroy.
__attribute__((noinline)) void dig_and_throw(int depth, int number)
{
    Counted local;

    if (depth == 0)
        throw_past_arrays(3, number);
    else
        dig_and_throw(depth - 1, number);
}

// As code that is built without a sanitizer: it does not say where its frame is. What it
// calls looks at that memory, and must not find there what frames that are gone have left.
__attribute__((noinline, no_sanitize_address)) void fill_plainly(int size)
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
        fill_plainly(5000);
        // Of all that was made the exception alone is left.
        CHECK_INT(Counted::alive, 1);
        return e.number;
    }
    return -1;
}

} // namespace

CASE(a_job_can_throw_and_catch, EVERYWHERE,
     "what func throws and catches, from frames below, arrives with its destructors run")
{
    Job job;

    CHECK_INT(job.start(throw_and_catch, 5), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(Counted::alive, 0);
    // The same stack again, out of the pool.
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
     "what is thrown after a pause is caught by the block that was entered before it")
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
     "an exception caught before a pause is alive after it, and can be thrown again")
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
     "while a job is paused in a catch block its caller throws and catches for itself")
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
     "a job started and finished in a catch block leaves that block's exception as it was")
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
     "a destructor that an exception runs may pause, and the exception goes on after it")
{
    Job job;

    CHECK_INT(job.start(pause_while_unwinding, 5), ASYNC_PAUSE);
    CHECK_INT(job.resume(), ASYNC_FINISH);
    CHECK_INT(job.ret, 5);
    CHECK_INT(std::uncaught_exceptions(), 0);
    CHECK_INT(Counted::alive, 0);
    ASYNC_cleanup_thread();
}

// A thread has one list of the exceptions being handled. Jobs may be in their catch blocks
// at once as long as the last to enter is the first to leave, here as on libcrypto.
CASE(jobs_in_catch_blocks_inside_each_other, EVERYWHERE,
     "of jobs paused in catch blocks, the last to enter leaving first, each has its exception")
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

// Holds its exception across pauses outside of any catch block.
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
     "jobs that keep exceptions in exception_ptr may be resumed in any order")
{
    Job jobs[20];
    const int count = 20;

    for (int i = 0; i < count; i++)
        CHECK_INT(jobs[i].start(hold_exception, i), ASYNC_PAUSE);
    CHECK_INT(Counted::alive, 0);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < count; i++) {
            // 7 and 20 have no common factor: each round takes each job once.
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

// Each level catches its own after the level below has finished, or paused and finished.
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
     "nested jobs throw and catch, around and inside each other's blocks")
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

int let_out(void *arg)
{
    pause_job();
    throw Error(number_of(arg));
}

// The job's caller is ready to catch: the exception is not for it.
void run_job_that_lets_out()
{
    Job job;

    try {
        job.start(let_out, 5);
        job.resume();
    } catch (...) {
    }
}

int drive_job_that_lets_out(void *)
{
    run_job_that_lets_out();
    return 5;
}

void run_it_inside_a_job()
{
    Job job;

    job.start(drive_job_that_lets_out, 0);
}

// Runs f in a child with a pipe for its stderr; SIGABRT must end it, after a message.
void check_aborts(void (*f)(void))
{
    int pipes[2], status;
    char piece[512];
    ssize_t length, all = 0;
    pid_t pid;

    CHECK_INT(pipe(pipes), 0);
    pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 2);
        close(pipes[0]);
        close(pipes[1]);
        f();
        _exit(0);
    }
    CHECK(pid > 0);
    close(pipes[1]);
    while ((length = read(pipes[0], piece, sizeof piece)) > 0)
        all += length;
    close(pipes[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status));
    CHECK_INT(WTERMSIG(status), SIGABRT);
    CHECK(all > 0);
}

} // namespace

// valgrind says something itself when a process aborts.
CASE(an_exception_that_leaves_func_ends_the_process, EVERYWHERE | NOT_ON_VALGRIND,
     "the process aborts with a message, even where the caller would catch")
{
    check_aborts(run_job_that_lets_out);
}

// In libcrypto a job that starts another corrupts the thread's state.
CASE(an_exception_does_not_leave_an_inner_job, OURS | NOT_ON_VALGRIND,
     "the same for a job inside a job: the outer one never sees the exception")
{
    check_aborts(run_it_inside_a_job);
}
