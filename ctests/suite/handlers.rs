//! Signal handlers in a process that has loaded the library by dlopen. (The chapter `signals` tests
//! those of programs that are linked with it.)

use libtest_mimic::{Failed, Trial};

use harness::stage::{build_program, command, output_of, shared_library};

pub fn trials() -> Vec<Trial> {
    let name = "handlers::a_threads_first_call_allocates_nothing";
    vec![Trial::test(name, first_call)]
}

fn first_call() -> Result<(), Failed> {
    let program = build_program("handler_in_plug_in", &["-Wl,--as-needed"])?;
    output_of(command(program, 60).arg(shared_library())).map(drop)
}
