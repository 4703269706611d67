//! The rsasync command, installed: on programs that it observes, and on core files.

mod check;
mod cores;
mod everywhere;
mod jobs;
mod observed;
mod run;
mod status;

use libtest_mimic::Trial;

use harness::stage::{command, output_of, stdout_of};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("command::run_preloads_before_others", run::run_preloads),
        Trial::test(
            "command::run_passes_arguments_and_status",
            run::run_passes_on,
        ),
        Trial::test("command::run_finds_the_library", run::run_finds),
        Trial::test("command::run_says_what_it_cant_preload", run::run_refuses),
        Trial::test("command::check_says_yes_for_libssl", check::yes_for_libssl),
        Trial::test(
            "command::check_says_yes_before_the_first_call",
            check::yes_before_calls,
        ),
        Trial::test(
            "command::check_says_yes_if_linked_statically",
            check::yes_if_static,
        ),
        Trial::test(
            "command::check_says_no_without_preload",
            check::no_without_preload,
        ),
        Trial::test(
            "command::check_says_no_for_a_static_openssl",
            check::no_for_static_openssl,
        ),
        Trial::test(
            "command::check_says_no_if_bound_inside",
            check::no_if_bound_inside,
        ),
        Trial::test(
            "command::check_says_no_if_nothing_calls",
            check::no_if_nothing_calls,
        ),
        Trial::test(
            "command::check_sees_a_replaced_file",
            check::check_sees_replaced,
        ),
        Trial::test(
            "command::check_covers_workers_and_all",
            check::check_covers_workers,
        ),
        Trial::test(
            "command::check_cant_tell_of_no_process",
            check::check_cant_tell,
        ),
        Trial::test("command::status_counts_all_states", status::status_counts),
        Trial::test(
            "command::status_is_what_get_stats_says",
            status::status_is_get_stats,
        ),
        Trial::test("command::core_of_gcore", cores::core_of_gcore),
        Trial::test("command::status_is_one_line_of_words", status::status_words),
        Trial::test(
            "command::status_for_prometheus",
            status::status_for_prometheus,
        ),
        Trial::test(
            "command::status_watches_until_the_end",
            status::status_watches,
        ),
        Trial::test(
            "command::status_covers_workers",
            status::status_covers_workers,
        ),
        Trial::test("command::jobs_are_one_a_line", jobs::jobs_lines),
        Trial::test("command::jobs_tells_what_moves", jobs::jobs_moves),
        Trial::test(
            "command::jobs_in_a_stripped_static_program",
            jobs::jobs_static,
        ),
        Trial::test(
            "command::jobs_with_an_address_space_limit",
            jobs::jobs_limited,
        ),
        Trial::test(
            "command::jobs_on_stacks_of_the_programs_own",
            jobs::jobs_own_stack,
        ),
        Trial::test("command::jobs_with_address_sanitizer", jobs::jobs_asan),
        Trial::test(
            "command::looks_while_everything_changes",
            jobs::looks_while_changing,
        ),
        Trial::test("command::a_crowd_is_read_quickly", jobs::crowd),
        Trial::test("command::errors_are_one_line", everywhere::errors),
        Trial::test("command::colours_only_on_a_terminal", everywhere::colours),
        Trial::test("command::man_pages_and_completions", everywhere::papers),
        Trial::test(
            "command::json_is_documented",
            everywhere::json_is_documented,
        ),
        Trial::test(
            "command::library_does_not_depend_on_its_crates",
            everywhere::tree_of_library,
        ),
    ];
    let has_no_cores = !cores::kernel_writes_cores();
    for (name, trial) in [
        (
            "command::core_names_the_overflowed_job",
            cores::core_overflow as fn() -> _,
        ),
        ("command::core_shows_all_jobs", cores::core_jobs),
        (
            "command::core_of_another_version_or_program",
            cores::core_of_others,
        ),
        ("command::broken_cores_do_no_harm", cores::broken_cores),
    ] {
        trials.push(Trial::test(name, trial).with_ignored_flag(has_no_cores));
    }
    // Not in a everywhere::container, as a rule.
    if output_of(command("unshare", 60).args(["--mount", "true"])).is_ok() {
        trials.push(Trial::test(
            "command::reads_a_container",
            everywhere::container,
        ));
    }
    // Only root can become others.
    if stdout_of(command("id", 60).arg("-u")).is_ok_and(|id| id.trim() == "0") {
        trials.push(Trial::test(
            "command::reads_a_server_that_closed_itself_in",
            everywhere::closed,
        ));
        trials.push(Trial::test(
            "command::errors_name_the_user",
            everywhere::permission,
        ));
    }
    trials
}
