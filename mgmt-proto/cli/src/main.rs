//! The operator's command line: `redoubt verb [options] guest`.
//!
//! Data goes to stdout, talk to stderr; the exit code is the number of the
//! failure's kind.

mod arguments;
mod commands;
mod scope;

use arguments::{Arguments, Audit, Bundle, Command, Fleet, Key, Node, Storage};
use clap::Parser;
use commands::{
    audit, console, create, explain, exporter, fleet, generate, key, node, pcap, support, top, volume,
};
use mgmt_proto::code::Failure;
use scope::{Scope, print_answer, target, targets};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    redoubt::logger::start(arguments.global.verbose);
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log::error!("{failure}");
            ExitCode::from(redoubt::exit::code(&failure))
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Key(Key::Bundle(
            Bundle::Show { file: None } | Bundle::Fetch { .. } | Bundle::Push { .. },
        )) => on_nodes(arguments, &arguments.command),
        Command::Key(verb) => print_answer(global, key::run(global, verb)?),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { directory } => print_answer(global, generate::man(directory)?),
        Command::ExitCodes => print_answer(global, generate::exit_codes()),
        Command::Explain { reason } => print_answer(global, explain::explain(reason.as_deref())?),
        Command::Exporter { listen } => exporter::run(global, listen),
        Command::Support { out } => support::run(global, out),
        Command::Storage(Storage::Discover { protocol }) if commands::storage::is_here(protocol.as_ref()) => {
            print_answer(global, commands::storage::discover_here(protocol.as_ref())?)
        }
        Command::Storage(Storage::Bench(options)) => volume::bench(global, options),
        Command::Storage(Storage::Read(options)) => volume::read(global, options),
        Command::Storage(Storage::Write(options)) => volume::write(global, options),
        Command::Fleet(Fleet::Status) | Command::DescribeInstances => fleet::status(global),
        Command::Fleet(Fleet::Run(options)) => fleet::run(global, options),
        Command::Audit(
            verb @ (Audit::Show { file: Some(path), .. } | Audit::Verify { file: Some(path), .. }),
        ) => print_answer(global, audit::run_offline(global, verb, path)?),
        command => on_nodes(arguments, command),
    }
}

fn on_nodes(arguments: &Arguments, command: &Command) -> Result<(), Failure> {
    let global = &arguments.global;
    if let Command::Top(options) = command
        && let [target] = targets(global, None)?.nodes.as_slice()
    {
        return top::run(&Scope { global, target, dry_run: false, is_alone: true }, options);
    }
    if commands::is_for_many(command) {
        let targets = targets(global, None)?;
        return match targets.nodes.as_slice() {
            [target] if !targets.several => {
                let scope = Scope { global, target, dry_run: global.dry_run, is_alone: true };
                print_answer(global, commands::perform(&scope, command)?)
            }
            nodes => fleet::on_each(global, nodes, command),
        };
    }
    let target = target(global)?;
    let scope = Scope { global, target: &target, dry_run: global.dry_run, is_alone: true };
    match command {
        Command::Node(Node::Log(options)) => node::follow(&scope, options),
        Command::Node(Node::Pcap(options)) => pcap::run(&scope, options),
        Command::Console(options) => console::run(&scope, options),
        Command::Create { file, overrides, paused, .. } if !global.dry_run => {
            create::create_and_attach(&scope, file, overrides, *paused)
        }
        _ => print_answer(global, commands::perform(&scope, command)?),
    }
}
