//! What the verbs do, by noun.

pub(crate) mod act;
pub(crate) mod audit;
pub(crate) mod block;
pub(crate) mod bundle;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod explain;
pub(crate) mod exporter;
pub(crate) mod fleet;
pub(crate) mod generate;
pub(crate) mod guest;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod pcap;
pub(crate) mod progress;
pub(crate) mod secrets;
pub(crate) mod state;
pub(crate) mod storage;
pub(crate) mod stream;
pub(crate) mod support;
pub(crate) mod top;
pub(crate) mod volume;

use crate::arguments::{Autostart, Bundle, Command, GuestConfig, Key, Node, Storage};
use crate::scope::Scope;
use mgmt_proto::code::Failure;
use redoubt::answer::Answer;
use redoubt::exit;

/// Whether a verb has one answer from each node.
pub(crate) fn is_for_many(command: &Command) -> bool {
    match command {
        Command::Node(Node::Log(options)) => !options.follow,
        Command::Create { console, .. } => !console,
        Command::Console(options) => options.once,
        Command::Storage(Storage::Bench(_) | Storage::Read(_) | Storage::Write(_)) => false,
        Command::Key(Key::Bundle(verb)) => matches!(verb, Bundle::Show { .. } | Bundle::Push { .. }),
        Command::Node(Node::Pcap(_)) => false,
        Command::Node(Node::Config(_)) => false,
        Command::Autostart(_)
        | Command::Node(_)
        | Command::Storage(_)
        | Command::Audit(_)
        | Command::Job(_)
        | Command::Check { .. }
        | Command::List { .. }
        | Command::Config(_)
        | Command::Sched
        | Command::Info { .. }
        | Command::Rename { .. }
        | Command::Revision { .. }
        | Command::Pause { .. }
        | Command::Unpause { .. }
        | Command::Shutdown { .. }
        | Command::Reboot { .. }
        | Command::Start { .. }
        | Command::Destroy { .. }
        | Command::BlockAttach { .. }
        | Command::BlockDetach { .. }
        | Command::BlockList { .. }
        | Command::Limit(_)
        | Command::Top(_)
        | Command::InjectFault { .. } => true,
        Command::Key(_)
        | Command::Fleet(_)
        | Command::DescribeInstances
        | Command::Exporter { .. }
        | Command::Support { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::ExitCodes
        | Command::Explain { .. } => false,
    }
}

/// A verb on one node.
pub(crate) fn perform(scope: &Scope<'_>, command: &Command) -> Result<Answer, Failure> {
    match command {
        Command::Node(verb) => node::run(scope, verb),
        Command::Autostart(Autostart { guest, switch, order }) => {
            state::autostart(scope, guest.as_deref(), *switch, *order)
        }
        Command::Key(Key::Bundle(verb)) => bundle::on_node(scope, verb),
        Command::Storage(verb) => storage::run(scope, verb),
        Command::Audit(verb) => audit::run(scope, verb),
        Command::Job(verb) => job::run(scope, verb),
        Command::Check { file, overrides } => create::check(scope, file, overrides),
        Command::Create { file, overrides, paused, .. } => create::create(scope, file, overrides, *paused),
        Command::List { guests, .. } => guest::list(scope, guests),
        Command::Sched => guest::sched(scope),
        Command::Config(GuestConfig::Show { guest }) => guest::config(scope, guest),
        Command::Info { guest } => guest::info(scope, guest),
        Command::Console(options) => console::once(scope, &options.guest),
        Command::Rename { guest, name } => guest::rename(scope, guest, name),
        Command::Revision { guest } => guest::revision(scope, guest.as_deref()),
        Command::Pause { guests } => act::act(scope, guests, act::Act::Pause),
        Command::Unpause { guests } => act::act(scope, guests, act::Act::Unpause),
        Command::Reboot { guests } => act::act(scope, guests, act::Act::Reboot),
        Command::Start { guest } => guest::start(scope, guest),
        Command::Destroy { guests } => act::act(scope, guests, act::Act::Destroy),
        Command::Shutdown { guests, until_off, .. } => act::shutdown(scope, guests, *until_off),
        Command::BlockAttach { guest, disk } => block::attach(scope, guest, disk),
        Command::BlockDetach { guest, disk, force } => block::detach(scope, guest, disk, *force),
        Command::BlockList { guest } => block::list(scope, guest),
        Command::Limit(arguments) => block::limit(scope, arguments),
        Command::Top(options) => top::once(scope, options),
        Command::InjectFault { fault } => node::inject_fault(scope, *fault),
        Command::Key(_)
        | Command::Fleet(_)
        | Command::DescribeInstances
        | Command::Exporter { .. }
        | Command::Support { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::ExitCodes
        | Command::Explain { .. } => Err(exit::usage("", "is for no node", "")),
    }
}
