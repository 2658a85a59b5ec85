//! The operator's command line: `redoubt verb [options] guest`.
//!
//! Data goes to stdout, talk to stderr; the exit code is the number of the
//! failure's kind.

mod arguments;
mod commands;
mod session;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(redoubt::exit::code(&failure))
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), mgmt_proto::code::Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Key(verb) => commands::key::run(global, verb),
        Command::Node(verb) => commands::node::run(global, verb),
        Command::Storage(verb) => commands::storage::run(global, verb),
        Command::Check { file, overrides } => commands::create::check(global, file, overrides),
        Command::Create { file, overrides, paused, console } => {
            commands::create::create(global, file, overrides, *paused, *console)
        }
        Command::List => commands::guest::list(global),
        Command::Info { guest } => commands::guest::info(global, guest),
        Command::Console(options) => commands::console::run(global, options),
        Command::Pause { guest } => commands::guest::act(global, guest, commands::guest::Act::Pause),
        Command::Unpause { guest } => commands::guest::act(global, guest, commands::guest::Act::Unpause),
        Command::Reboot { guest } => commands::guest::act(global, guest, commands::guest::Act::Reboot),
        Command::Destroy { guest } => commands::guest::act(global, guest, commands::guest::Act::Destroy),
        Command::Shutdown { guest, until_off, all } => {
            commands::guest::shutdown(global, guest.as_deref(), *until_off, *all)
        }
        Command::InjectFault { fault } => commands::node::inject_fault(global, *fault),
    }
}
