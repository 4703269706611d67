//! Whole programs on the staged library: which checks there are, by subject in the files beside
//! this one.

mod environment;
mod examples;
mod loading;
mod man_page;
mod openssl_command;
mod plug_ins;
mod static_linking;

pub use loading::two_libcryptos;
use plug_ins::Reach;

use crate::check::Check;
use crate::openssl::{Openssl, SYSTEM};
use crate::stage::{command, stdout_of};

/// The checks that are the same for every OpenSSL.
pub fn without_openssl() -> Vec<Check> {
    let mut checks = alone(&SYSTEM);
    checks.extend([
        Check::new(
            "programs::jobs_while_libraries_come_and_go",
            loading::jobs_meanwhile,
        ),
        Check::new(
            "objects::libcryptos_come_and_go",
            plug_ins::libcryptos_come_and_go,
        ),
        Check::new(
            "objects::unrelated_ones_cost_nothing",
            plug_ins::unrelated_objects_cost_nothing,
        ),
        Check::new("objects::a_wrapper_finds_the_next_one", plug_ins::wrapped),
        Check::new(
            "programs::stats_are_printed_if_asked_for",
            environment::stats,
        ),
    ]);
    checks.extend(plug_ins::odd_forms());
    // Only root can give a program to another user.
    if stdout_of(command("id", 60).arg("-u")).is_ok_and(|id| id.trim() == "0") {
        checks.push(Check::new(
            "programs::set_uid_programs_ignore_the_environment",
            environment::set_uid,
        ));
    }
    checks
}

/// Those of the checks that a platform besides this machine has tools for. `openssl` is one of it.
pub fn on_platform(openssl: &'static Openssl) -> Vec<Check> {
    let mut checks = alone(openssl);
    let needs_host = ["beside_libcrypto::", "plug_ins_on_"];
    checks.extend(with_openssl(openssl));
    checks.retain(|check| !needs_host.iter().any(|group| check.name.starts_with(group)));
    checks
}

/// The checks of programs that need no libcrypto, on this one's platform.
fn alone(openssl: &'static Openssl) -> Vec<Check> {
    let platform = openssl.platform;
    vec![
        Check::new("programs::man_page_example_alone", || {
            man_page::alone(openssl)
        }),
        Check::new("programs::wholly_static_program", || {
            static_linking::without_shared_libraries(platform)
        }),
        Check::new("programs::loaded_and_unloaded_at_run_time", || {
            loading::at_run_time(platform)
        }),
    ]
}

/// The checks of programs that use this OpenSSL.
pub fn with_openssl(openssl: &'static Openssl) -> Vec<Check> {
    let mut checks = vec![
        Check::new("programs::man_page_example_linked_beside_libcrypto", || {
            man_page::linked(openssl)
        }),
        Check::new("programs::man_page_example_preloaded", || {
            man_page::preloaded(openssl)
        }),
        Check::new("programs::static_program_that_uses_jobs", || {
            static_linking::jobs(openssl, "static_jobs", &[])
        }),
        Check::new("programs::wholly_static_program_that_uses_jobs", || {
            static_linking::jobs(openssl, "wholly_static_jobs", &["-static"])
        }),
        Check::new("programs::static_program_that_uses_libssl", || {
            static_linking::ssl(openssl)
        }),
        Check::new("programs::openssl_speed_sha256_preloaded", || {
            openssl_command::speed(openssl, "64", &["-evp", "sha256"])
        }),
        Check::new("programs::openssl_speed_rsa2048_preloaded", || {
            openssl_command::speed(openssl, "8", &["rsa2048"])
        }),
    ];
    for protocol in ["tls1_2", "tls1_3"] {
        checks.push(Check::new(
            format!("programs::openssl_{protocol}_preloaded"),
            move || openssl_command::tls(openssl, protocol),
        ));
    }
    checks.extend(plug_ins::constructors(openssl));
    for (how, preload) in [("linked", false), ("preloaded", true)] {
        for (name, reach) in [("handle", Reach::Handle), ("deepbind", Reach::DeepBind)] {
            checks.push(Check::new(
                format!("beside_libcrypto::{how}_by_{name}"),
                move || plug_ins::beside_libcrypto(openssl, preload, reach),
            ));
        }
    }
    checks.push(Check::new("beside_libcrypto::preloaded_in_python", || {
        plug_ins::beside_libcrypto_in_python(openssl)
    }));
    let mut examples = vec!["pipe", "epoll"];
    if openssl.major() >= 3 {
        checks.push(Check::new("programs::loading_beside_a_fork", || {
            loading::beside_a_fork(openssl)
        }));
        examples.push("callback");
    }
    for example in examples {
        checks.push(Check::new(format!("examples::{example}"), move || {
            examples::run(openssl, example)
        }));
    }
    checks
}
