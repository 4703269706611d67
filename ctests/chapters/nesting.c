/*
 * nesting.c: jobs that start and resume other jobs (src/job/switching.rs). At each pause and end
 * control goes back to the job, or the thread, that resumed last.
 *
 * Every case is OURS: libcrypto keeps one current job and one context to return to for a thread.
 * There a start inside a job puts the running job into the pool, and a resume overwrites the
 * context that the outer job was to return to.
 */
#include "fp_modes.h"
#include "jobs.h"
#include "process.h"

static int runs_another(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner = NULL;
    int ret = -77;

    CHECK(arg == NULL);
    CHECK_INT(start_pausing_job(&inner, NULL, &ret, 0, 100), ASYNC_FINISH);
    CHECK(inner == NULL);
    CHECK_INT(ret, 100);
    CHECK(ASYNC_get_current_job() == me);
    return 7;
}

CASE(a_job_may_run_another, OURS,
     "A job that is started by a job, and does not pause, has ended when the start returns")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, runs_another, NULL, 0), ASYNC_FINISH);
    CHECK(job == NULL);
    CHECK_INT(ret, 7);
    CHECK(ASYNC_get_current_job() == NULL);
    ASYNC_cleanup_thread();
}

/* Counts in *arg how often it resumes the inner job. */
static int drives_another(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner = NULL, *handle;
    int *steps = ARG(int, arg), i, ret = -77;

    CHECK_INT(start_pausing_job(&inner, NULL, &ret, 3, 103), ASYNC_PAUSE);
    CHECK(inner != NULL && inner != me);
    handle = inner;
    for (i = 0; i < 3; i++) {
        ++*steps;
        CHECK(ASYNC_get_current_job() == me);
        CHECK(inner == handle);
        CHECK_INT(ret, -77);
        CHECK_INT(resume(&inner, &ret), i < 2 ? ASYNC_PAUSE : ASYNC_FINISH);
    }
    CHECK(inner == NULL);
    CHECK_INT(ret, 103);
    CHECK(ASYNC_get_current_job() == me);
    return 8;
}

CASE(a_pause_returns_to_the_starting_job, OURS,
     "A pause of an inner job returns to the outer job, not to the thread; the outer is current")
{
    ASYNC_JOB *job = NULL;
    int steps = 0, ret = 0;

    CHECK_INT(start(&job, NULL, &ret, drives_another, &steps), ASYNC_FINISH);
    CHECK_INT(steps, 3);
    CHECK_INT(ret, 8);
    ASYNC_cleanup_thread();
}

/* ---- depth ---- */

enum { DEPTH = 20 };

/* Jobs that each start the next; level 1 is the outermost. */
struct chain {
    int depth;                          /* the number of levels */
    int running;                        /* the number of jobs started and not ended */
    ASYNC_WAIT_CTX *ctx[DEPTH + 1];     /* by level */
    ASYNC_JOB *job[DEPTH + 1];          /* by level */
};

/* The args of the job of a level. */
struct link {
    struct chain *chain;
    int level;
};

/* `me` is the current job, its args are intact, and each job around it has its own context. */
static void check_link(const struct link *link, const struct chain *c, int level, ASYNC_JOB *me)
{
    int i;

    CHECK(ASYNC_get_current_job() == me);
    CHECK(link->chain == c);
    CHECK_INT(link->level, level);
    for (i = 1; i <= level; i++)
        CHECK(ASYNC_get_wait_ctx(c->job[i]) == c->ctx[i]);
}

/* Starts and resumes the next level, and pauses each time that the next level has paused. */
static int drives_the_next(void *arg)
{
    struct link *link = arg;
    struct chain *c = link->chain;
    ASYNC_JOB *me = ASYNC_get_current_job(), *next = NULL;
    struct link deeper = { c, link->level + 1 };
    int level = link->level, code, ret = -77;

    c->running++;
    CHECK_INT(c->running, level);
    c->job[level] = me;
    do {
        check_link(link, c, level, me);
        if (level < c->depth) {
            code = ASYNC_start_job(&next, c->ctx[level + 1], &ret, drives_the_next, &deeper,
                                   sizeof(deeper));
            check_link(link, c, level, me);
            CHECK_INT(ret, code == ASYNC_FINISH ? level + 1 : -77);
        } else {
            code = ASYNC_FINISH;
        }
        CHECK_INT(ASYNC_pause_job(), 1);
        check_link(link, c, level, me);
    } while (code == ASYNC_PAUSE);
    CHECK_INT(code, ASYNC_FINISH);
    CHECK(next == NULL);
    CHECK_INT(c->running, level);
    c->running--;
    return level;
}

CASE(jobs_nest_twenty_deep, OURS,
     "Jobs nest to any depth: a pause goes one level out, and a resume one level in")
{
    struct chain c = { 0 };
    int i;

    for (i = 1; i <= DEPTH; i++)
        c.ctx[i] = ASYNC_WAIT_CTX_new();
    for (c.depth = 1; c.depth <= DEPTH; c.depth++) {
        struct link first = { &c, 1 };
        ASYNC_JOB *job = NULL;
        int rounds = 0, code, ret = -77;

        while ((code = ASYNC_start_job(&job, c.ctx[1], &ret, drives_the_next, &first,
                                       sizeof(first))) == ASYNC_PAUSE) {
            CHECK(ASYNC_get_current_job() == NULL);
            CHECK(job == c.job[1]);
            rounds++;
        }
        CHECK_INT(code, ASYNC_FINISH);
        CHECK_INT(ret, 1);
        CHECK_INT(c.running, 0);
        /* The innermost job pauses once, and each job around it once more than the next. */
        CHECK_INT(rounds, c.depth);
    }
    for (i = 1; i <= DEPTH; i++)
        ASYNC_WAIT_CTX_free(c.ctx[i]);
    ASYNC_cleanup_thread();
}

/* Starts the next level and pauses; others resume both. */
static int starts_and_leaves(void *arg)
{
    struct link *link = arg;
    struct chain *c = link->chain;
    struct link deeper = { c, link->level + 1 };
    int level = link->level, ret = -77;

    c->running++;
    if (level < c->depth) {
        CHECK_INT(ASYNC_start_job(&c->job[level + 1], NULL, &ret, starts_and_leaves, &deeper,
                                  sizeof(deeper)), ASYNC_PAUSE);
        CHECK_INT(ret, -77);
    }
    CHECK_INT(ASYNC_pause_job(), 1);
    c->running--;
    return level;
}

CASE(nested_jobs_finish_in_any_order, OURS,
     "Nested jobs that are all paused can each be resumed from outside all jobs, in any order")
{
    int stride, i;

    /*
     * Stride 1 begins with the outermost job, 20 with the innermost, others mix. A stride has to
     * be coprime to DEPTH + 1 = 3 * 7 to reach every level.
     */
    for (stride = 1; stride <= DEPTH; stride++) {
        struct chain c = { .depth = DEPTH };
        struct link first = { &c, 1 };
        int ret;

        if (stride % 3 == 0 || stride % 7 == 0)
            continue;
        CHECK_INT(ASYNC_start_job(&c.job[1], NULL, &ret, starts_and_leaves, &first,
                                  sizeof(first)), ASYNC_PAUSE);
        CHECK_INT(c.running, DEPTH);
        for (i = 1; i <= DEPTH; i++) {
            int level = i * stride % (DEPTH + 1);

            CHECK_INT(resume(&c.job[level], &ret), ASYNC_FINISH);
            CHECK(c.job[level] == NULL);
            CHECK_INT(ret, level);
            CHECK_INT(c.running, DEPTH - i);
            CHECK(ASYNC_get_current_job() == NULL);
        }
    }
    ASYNC_cleanup_thread();
}

/* ---- siblings ---- */

/* Starts jobs that pause once, twice and thrice, and finishes them in the order given. */
static int finishes_siblings_in_order(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner[3] = { NULL };
    int *order = ARG(int, arg), i, ret;

    for (i = 0; i < 3; i++) {
        CHECK_INT(start_pausing_job(&inner[i], NULL, &ret, i + 1, 101 + i), ASYNC_PAUSE);
        CHECK(ASYNC_get_current_job() == me);
    }
    CHECK(inner[0] != inner[1] && inner[1] != inner[2] && inner[0] != inner[2]);
    CHECK_INT(ASYNC_pause_job(), 1);
    /* The second and third job go on to their last pause, in turns. */
    CHECK_INT(resume(&inner[2], &ret), ASYNC_PAUSE);
    CHECK_INT(resume(&inner[1], &ret), ASYNC_PAUSE);
    CHECK_INT(resume(&inner[2], &ret), ASYNC_PAUSE);
    for (i = 0; i < 3; i++) {
        CHECK_INT(resume(&inner[order[i]], &ret), ASYNC_FINISH);
        CHECK_INT(ret, 101 + order[i]);
        CHECK(ASYNC_get_current_job() == me);
        CHECK_INT(ASYNC_pause_job(), 1);
    }
    return 9;
}

CASE(siblings_take_turns_and_finish_in_any_order, OURS,
     "Jobs started by one job are resumed by it in turns, and finish in every order")
{
    static int orders[6][3] = {
        { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 }
    };
    int i, k, ret;

    for (i = 0; i < 6; i++) {
        ASYNC_JOB *job = NULL;

        for (k = 0; k < 4; k++)
            CHECK_INT(start(&job, NULL, &ret, finishes_siblings_in_order, orders[i]), ASYNC_PAUSE);
        finish(job, 9);
    }
    ASYNC_cleanup_thread();
}

static int resumes_it_once(void *arg)
{
    ASYNC_JOB **other = ARG(ASYNC_JOB *, arg), *me = ASYNC_get_current_job();
    int ret = -77;

    CHECK_INT(resume(other, &ret), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ret, -77);
    return 5;
}

static int starts_one_and_ends(void *arg)
{
    int ret;

    CHECK_INT(start_pausing_job(ARG(ASYNC_JOB *, arg), NULL, &ret, 4, 104), ASYNC_PAUSE);
    return 6;
}

CASE(a_pause_returns_to_the_last_resumer, OURS,
     "A pause returns to whoever resumed the job last, even where its starter has ended")
{
    ASYNC_JOB *job = NULL, *inner = NULL;
    int ret = 0;

    CHECK_INT(start(&job, NULL, &ret, starts_one_and_ends, &inner), ASYNC_FINISH);
    CHECK_INT(ret, 6);
    /* Resumed by the thread itself, by one job, by another job, and by the thread again. */
    CHECK_INT(resume(&inner, &ret), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    CHECK_INT(start(&job, NULL, &ret, resumes_it_once, &inner), ASYNC_FINISH);
    CHECK_INT(ret, 5);
    CHECK_INT(start(&job, NULL, &ret, resumes_it_once, &inner), ASYNC_FINISH);
    CHECK(ASYNC_get_current_job() == NULL);
    finish(inner, 104);
    ASYNC_cleanup_thread();
}

/* ---- refusals ---- */

static int checks_the_running_is_refused(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job();

    CHECK(arg == NULL);
    check_resume_is_refused(me);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_resume_is_refused(me);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 7;
}

CASE(resuming_the_running_job_is_refused, OURS,
     "A job that tries to resume itself gets ASYNC_ERR, and goes on")
{
    ASYNC_JOB *job = NULL;
    int i, ret = 0;

    for (i = 0; i < 2; i++)
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, checks_the_running_is_refused, NULL, 0),
                  ASYNC_PAUSE);
    finish(job, 7);
    ASYNC_cleanup_thread();
}

/* Starts the next level; the innermost tries to resume every level, its own included. */
static int checks_ancestors_are_refused(void *arg)
{
    struct link *link = arg;
    struct chain *c = link->chain;
    struct link deeper = { c, link->level + 1 };
    int level = link->level, i, round, ret;

    c->job[level] = ASYNC_get_current_job();
    if (level < c->depth) {
        ASYNC_JOB *next = NULL;

        while (ASYNC_start_job(&next, NULL, &ret, checks_ancestors_are_refused, &deeper,
                               sizeof(deeper)) == ASYNC_PAUSE)
            CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_INT(ret, level + 1);
    } else {
        for (round = 0; round < 2; round++) {
            for (i = 1; i <= level; i++)
                check_resume_is_refused(c->job[i]);
            CHECK_INT(ASYNC_pause_job(), 1);
        }
    }
    return level;
}

CASE(resuming_an_ancestor_is_refused, OURS,
     "A job that tries to resume the one that started it, or one further out, gets ASYNC_ERR")
{
    struct chain c = { .depth = 5 };
    struct link first = { &c, 1 };
    ASYNC_JOB *job = NULL;
    int i, ret;

    for (i = 0; i < 2; i++)
        CHECK_INT(ASYNC_start_job(&job, NULL, &ret, checks_ancestors_are_refused, &first,
                                  sizeof(first)), ASYNC_PAUSE);
    finish(job, 1);
    ASYNC_cleanup_thread();
}

/* Two jobs that have each other's handle. */
struct pair {
    ASYNC_JOB *parent, *child;
};

static int is_resumed_by_its_child(void *arg)
{
    struct pair *pair = ARG(struct pair, arg);

    CHECK_INT(ASYNC_pause_job(), 1);
    /* The child has resumed this job, and is its ancestor now. */
    check_resume_is_refused(pair->child);
    check_resume_is_refused(pair->parent);
    CHECK_INT(ASYNC_pause_job(), 1);
    return 11;
}

static int resumes_its_parent(void *arg)
{
    struct pair *pair = ARG(struct pair, arg);
    ASYNC_JOB *me = ASYNC_get_current_job();
    int ret = -77;

    check_resume_is_refused(pair->parent);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(resume(&pair->parent, &ret), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ret, -77);
    return 12;
}

static int starts_its_child(void *arg)
{
    struct pair *pair = ARG(struct pair, arg);
    int ret;

    pair->parent = ASYNC_get_current_job();
    CHECK_INT(start(&pair->child, NULL, &ret, resumes_its_parent, pair), ASYNC_PAUSE);
    return is_resumed_by_its_child(arg);
}

CASE(a_child_may_resume_its_paused_parent, OURS,
     "An ancestor is the job that resumed last, not the starter: a child may resume its parent")
{
    struct pair pair = { NULL, NULL };
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(start(&job, NULL, &ret, starts_its_child, &pair), ASYNC_PAUSE);
    CHECK(job == pair.parent);
    finish(pair.child, 12);
    CHECK(ASYNC_get_current_job() == NULL);
    finish(job, 11);
    ASYNC_cleanup_thread();
}

static int stores_its_handle(void *arg)
{
    *ARG(ASYNC_JOB *, arg) = ASYNC_get_current_job();
    return 1;
}

static int resumes_a_finished_one(void *arg)
{
    ASYNC_JOB *inner = NULL, *handle = NULL;
    int ret;

    CHECK(arg == NULL);
    CHECK_INT(start(&inner, NULL, &ret, stores_its_handle, &handle), ASYNC_FINISH);
    check_resume_is_refused(handle);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_resume_is_refused(handle);
    /* The pool holds the job once, and a start takes it like any idle job. */
    CHECK_INT(start_pausing_job(&inner, NULL, &ret, 1, 101), ASYNC_PAUSE);
    finish(inner, 101);
    return 3;
}

CASE(resuming_a_finished_job_inside_a_job_is_refused, OURS,
     "A job that tries to resume a finished, idle job gets ASYNC_ERR, and goes on")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_init_thread(2, 0), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, resumes_a_finished_one, NULL, 0), ASYNC_PAUSE);
    finish(job, 3);
    ASYNC_cleanup_thread();
}

/* ---- the pool ---- */

static int finds_the_limit(void *arg)
{
    ASYNC_JOB *inner[2] = { NULL }, *me = ASYNC_get_current_job();
    int i, ret = -77;

    CHECK(arg == NULL);
    for (i = 0; i < 2; i++)
        CHECK_INT(start_pausing_job(&inner[i], NULL, &ret, 1, 101), ASYNC_PAUSE);
    for (i = 0; i < 10; i++) {
        ASYNC_JOB *more = NULL;

        CHECK_INT(start_pausing_job(&more, NULL, &ret, 1, 101), ASYNC_NO_JOBS);
        CHECK(more == NULL);
        CHECK_INT(ret, -77);
        CHECK(ASYNC_get_current_job() == me);
        CHECK_INT(resume(&inner[i % 2], &ret), ASYNC_FINISH);
        ret = -77;
        CHECK_INT(start_pausing_job(&inner[i % 2], NULL, &ret, 1, 101), ASYNC_PAUSE);
    }
    for (i = 0; i < 2; i++)
        CHECK_INT(resume(&inner[i], &ret), ASYNC_FINISH);
    return 4;
}

CASE(nested_jobs_count_against_the_limit, OURS,
     "A start inside a job is ASYNC_NO_JOBS at the thread's limit, and succeeds when a job ends")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_init_thread(3, 1), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, finds_the_limit, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ret, 4);
    ASYNC_cleanup_thread();
}

#ifndef ON_LIBCRYPTO
static int runs_many_others(void *arg)
{
    ASYNC_JOB *inner = NULL;
    int i, ret;

    CHECK(arg == NULL);
    for (i = 0; i < 100; i++) {
        CHECK_INT(start_pausing_job(&inner, NULL, &ret, i % 2, 100),
                  i % 2 ? ASYNC_PAUSE : ASYNC_FINISH);
        if (i % 2)
            CHECK_INT(resume(&inner, &ret), ASYNC_FINISH);
        CHECK_INT(stacks_in_use(), 2);
    }
    return 1;
}

CASE(nested_jobs_are_used_again, OURS,
     "A job that finishes inside another becomes idle, and the next start there takes it")
{
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, runs_many_others, NULL, 0), ASYNC_FINISH);
    CHECK_INT(stacks_in_use(), 2);
    ASYNC_cleanup_thread();
    CHECK_INT(stacks_in_use(), 0);
}
#endif

/* ---- blocked pauses ---- */

/*
 * Each level blocks its own pauses `level` times, runs the next level to its end, and undoes its
 * blocks, after which it can pause. A level that is resumed finds its number in `running`, where
 * the resumer writes it: so a pause that took place differs from one that was blocked.
 */
static int blocks_at_each_level(void *arg)
{
    struct link *link = arg;
    struct chain *c = link->chain;
    struct link deeper = { c, link->level + 1 };
    int level = link->level, i, code, ret;

    /* A new job is not blocked, though the jobs around it are. */
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(c->running, level);
    for (i = 0; i < level; i++)
        ASYNC_block_pause();
    if (level < c->depth) {
        ASYNC_JOB *next = NULL;

        code = ASYNC_start_job(&next, NULL, &ret, blocks_at_each_level, &deeper, sizeof(deeper));
        CHECK_INT(code, ASYNC_PAUSE);
        do {
            c->running = level + 1;
            code = resume(&next, &ret);
            /* This job is still blocked, whatever the inner job did to its own count. */
            c->running = -1;
            CHECK_INT(ASYNC_pause_job(), 1);
            CHECK_INT(c->running, -1);
        } while (code == ASYNC_PAUSE);
        CHECK_INT(code, ASYNC_FINISH);
    }
    for (i = 0; i < level; i++) {
        c->running = -1;
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_INT(c->running, -1);
        ASYNC_unblock_pause();
    }
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(c->running, level);
    /* This block ends with the job: it does not block the outer job's next pause. */
    ASYNC_block_pause();
    return level;
}

CASE(each_level_has_its_own_block_count, OURS,
     "ASYNC_block_pause and ASYNC_unblock_pause in an inner job do not affect the outer one")
{
    struct chain c = { .depth = 6 };
    struct link first = { &c, 1 };
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, blocks_at_each_level, &first, sizeof(first)),
              ASYNC_PAUSE);
    c.running = 1;
    CHECK_INT(resume(&job, &ret), ASYNC_PAUSE);
    c.running = 1;
    finish(job, 1);
    ASYNC_cleanup_thread();
}

static int unblocks_too_often(void *arg)
{
    int i;

    CHECK(arg == NULL);
    for (i = 0; i < 5; i++)
        ASYNC_unblock_pause();
    return 1;
}

static int stays_blocked(void *arg)
{
    ASYNC_JOB *inner = NULL;
    int *steps = ARG(int, arg), ret;

    ASYNC_block_pause();
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, unblocks_too_often, NULL, 0), ASYNC_FINISH);
    CHECK_INT(ASYNC_pause_job(), 1);
    *steps = 1;
    ASYNC_unblock_pause();
    CHECK_INT(ASYNC_pause_job(), 1);
    *steps = 2;
    return 1;
}

CASE(an_inner_unblock_does_not_reach_the_outer_count, OURS,
     "ASYNC_unblock_pause in an inner job that is not blocked leaves the outer job blocked")
{
    ASYNC_JOB *job = NULL;
    int steps = 0, ret;

    CHECK_INT(start(&job, NULL, &ret, stays_blocked, &steps), ASYNC_PAUSE);
    CHECK_INT(steps, 1);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    CHECK_INT(steps, 2);
    ASYNC_cleanup_thread();
}

/* ---- wait contexts ---- */

/* Adds a descriptor with the context as its key, and pauses. */
static int adds_an_fd(void *arg)
{
    ASYNC_WAIT_CTX *ctx = ARG(ASYNC_WAIT_CTX, arg);

    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, ctx, 5, NULL, NULL), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_marks(ctx, 0, 0);
    CHECK(ASYNC_get_wait_ctx(ASYNC_get_current_job()) == ctx);
    return 1;
}

/* Adds and clears a descriptor of its own around a job with context *arg. */
static int adds_around(void *arg)
{
    ASYNC_WAIT_CTX **inner_ctx = ARG(ASYNC_WAIT_CTX *, arg);
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner = NULL;
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(me);
    int shared = ctx == *inner_ctx, ret;

    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, me, 6, NULL, NULL), 1);
    CHECK_INT(start(&inner, *inner_ctx, &ret, adds_an_fd, *inner_ctx), ASYNC_PAUSE);
    CHECK(ASYNC_get_wait_ctx(me) == ctx);
    CHECK(ASYNC_get_wait_ctx(inner) == *inner_ctx);
    check_marks(ctx, shared ? 2 : 1, 0);
    CHECK_INT(resume(&inner, &ret), ASYNC_FINISH);
    check_marks(ctx, shared ? 0 : 1, 0);
    CHECK_INT(ASYNC_WAIT_CTX_clear_fd(ctx, me), 1);
    check_marks(ctx, 0, shared ? 1 : 0);
    CHECK_INT(ASYNC_WAIT_CTX_set_wait_fd(ctx, me, 7, NULL, NULL), 1);
    CHECK_INT(ASYNC_pause_job(), 1);
    check_marks(ctx, 0, 0);
    CHECK(ASYNC_get_wait_ctx(me) == ctx);
    return 1;
}

CASE(a_resume_clears_the_marks_of_its_own_context, OURS,
     "A resume of an inner job clears the marks of its own context, not of the outer job's")
{
    ASYNC_WAIT_CTX *outer_ctx = ASYNC_WAIT_CTX_new(), *inner_ctx = ASYNC_WAIT_CTX_new();
    ASYNC_JOB *job = NULL;
    int ret;

    CHECK_INT(start(&job, outer_ctx, &ret, adds_around, &inner_ctx), ASYNC_PAUSE);
    check_marks(outer_ctx, 1, 0);
    check_marks(inner_ctx, 0, 0);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);

    CHECK_INT(start(&job, inner_ctx, &ret, adds_around, &inner_ctx), ASYNC_PAUSE);
    check_marks(inner_ctx, 1, 1);
    CHECK_INT(resume(&job, &ret), ASYNC_FINISH);
    ASYNC_WAIT_CTX_free(outer_ctx);
    ASYNC_WAIT_CTX_free(inner_ctx);
    ASYNC_cleanup_thread();
}

/* ---- floating-point modes, and clean-up ---- */

/* Each level sets a rounding mode of its own, and starts the next. */
static int rounds_at_each_level(void *arg)
{
    struct link *link = arg;
    struct chain *c = link->chain;
    struct link deeper = { c, link->level + 1 };
    int level = link->level, code, ret;

    CHECK_FP(rounding((level - 1) % 4));
    set_fp(rounding(level % 4));
    if (level < c->depth) {
        ASYNC_JOB *next = NULL;

        do {
            code = ASYNC_start_job(&next, NULL, &ret, rounds_at_each_level, &deeper,
                                   sizeof(deeper));
            CHECK_FP(rounding(level % 4));
            CHECK_INT(ASYNC_pause_job(), 1);
            CHECK_FP(rounding(level % 4));
        } while (code == ASYNC_PAUSE);
    } else {
        CHECK_INT(ASYNC_pause_job(), 1);
        CHECK_FP(rounding(level % 4));
    }
    return level;
}

CASE(each_level_has_its_own_rounding, OURS,
     "An inner job starts with the outer job's rounding modes; then each level keeps its own")
{
    struct chain c = { .depth = 7 };
    struct link first = { &c, 1 };
    ASYNC_JOB *job = NULL;
    int rounds = 0, ret;

    set_fp(rounding(0));
    while (ASYNC_start_job(&job, NULL, &ret, rounds_at_each_level, &first, sizeof(first))
           == ASYNC_PAUSE) {
        CHECK_FP(rounding(0));
        rounds++;
    }
    CHECK_FP(rounding(0));
    CHECK_INT(rounds, 7);
    ASYNC_cleanup_thread();
}

static int cleans_up_around_others(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner = NULL, *after = NULL;
    int ret;

    CHECK(arg == NULL);
    CHECK_INT(start_pausing_job(&inner, NULL, &ret, 2, 102), ASYNC_PAUSE);
    ASYNC_cleanup_thread();
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(resume(&inner, &ret), ASYNC_PAUSE);
    CHECK_INT(start_pausing_job(&after, NULL, &ret, 1, 101), ASYNC_PAUSE);
    CHECK_INT(ASYNC_pause_job(), 1);
    CHECK_INT(resume(&after, &ret), ASYNC_FINISH);
    ASYNC_cleanup_thread();
    finish(inner, 102);
    check_resume_is_refused(me);
    return 2;
}

static int runs_one_that_cleans_up(void *arg)
{
    ASYNC_JOB *me = ASYNC_get_current_job(), *inner = NULL;
    int ret;

    CHECK(arg == NULL);
    CHECK_INT(ASYNC_start_job(&inner, NULL, &ret, cleans_up_around_others, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == me);
    CHECK_INT(ASYNC_pause_job(), 1);
    finish(inner, 2);
    CHECK(ASYNC_get_current_job() == me);
    return 1;
}

CASE(cleanup_in_an_inner_job_leaves_all_levels_running, OURS,
     "ASYNC_cleanup_thread in a nested job leaves it, the jobs around it and paused jobs valid")
{
    ASYNC_JOB *job = NULL;
    int ret = 0;

    CHECK_INT(ASYNC_init_thread(5, 5), 1);
    CHECK_INT(ASYNC_start_job(&job, NULL, &ret, runs_one_that_cleans_up, NULL, 0), ASYNC_PAUSE);
    CHECK(ASYNC_get_current_job() == NULL);
    finish(job, 1);
    ASYNC_cleanup_thread();
}
