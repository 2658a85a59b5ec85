//! One line for each verb: what is decided of it, in the order of the wire.
//!
//! A request that is not in the table does not compile, nor does one that the node's
//! dispatch does not carry out. Audit log, jobs, roles, lockdown and the document all read
//! these lines.

use super::{Discover, Request};
use crate::code::Code;
use crate::disk::DiskSetting;
use crate::role::Role;
use alloc::borrow::Cow;
use alloc::format;
use storage::volume::user;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The node.
    Node,
    /// A guest, by name.
    Guest(&'a str),
    /// A volume, by name.
    Volume(&'a str),
    /// Where volumes are searched: a portal, or `aoe`.
    Search(&'a str),
    /// A job, by number.
    Job(u64),
}

/// [`Subject`] without the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// The node.
    Node,
    /// A guest.
    Guest,
    /// A volume.
    Volume,
    /// Where volumes are searched.
    Search,
    /// A job.
    Job,
}

/// What a verb does to the node; so whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is not recorded.
    Reads,
    /// It takes from a guest or the node, or types, in pieces: the first is recorded.
    Streams,
    /// It is recorded, and changes nothing that other operators see.
    Prepares,
    /// It changes the node or a guest.
    Changes,
    /// It changes whom the node listens to: obeyed in lockdown, and when the node has no
    /// room for other jobs and records.
    Rescues,
}

/// When a verb is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Now,
    /// It becomes a job, unless it fails at once.
    Job,
}

/// What is decided of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verb {
    /// Its number on the wire.
    pub number: u8,
    /// Its name in logs and lists of jobs. A flag that takes another role has its own.
    pub name: &'static str,
    /// The least role for it.
    pub role: Role,
    /// What it does.
    pub effect: Effect,
    /// When it is answered.
    pub answer: Answer,
    /// What it is about.
    pub subject: SubjectKind,
}

impl Verb {
    /// Whether it only looks: what is obeyed while a node does not know yet whom its owner
    /// trusts.
    #[must_use]
    pub fn is_look(&self) -> bool {
        self.role == Role::Viewer
    }

    /// Whether it is obeyed in lockdown: what only looks, and what changes whom the node
    /// listens to, which the roots have signed. No operator's key can end it.
    #[must_use]
    pub fn is_rescue(&self) -> bool {
        self.is_look() || self.effect == Effect::Rescues
    }

    /// Whether it is recorded in the audit log.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        !matches!(self.effect, Effect::Reads)
    }

    /// Whether it changes what other operators see.
    #[must_use]
    pub const fn changes(&self) -> bool {
        matches!(self.effect, Effect::Changes | Effect::Rescues)
    }

    /// Codes with which a command that failed did something all the same, and so belongs to
    /// the log of effects: part of it was done, or it holds and only could not be kept.
    #[must_use]
    pub const fn codes_with_effect(&self) -> &'static [Code] {
        match self.effect {
            Effect::Rescues => &[Code::Storage, Code::Deadline, Code::Capacity, Code::Partial],
            _ => &[Code::Partial],
        }
    }

    /// The guest that an entry of a log with this object is about.
    #[must_use]
    pub fn guest<'a>(&self, object: &'a str) -> Option<&'a str> {
        (self.subject == SubjectKind::Guest).then_some(object)
    }
}

/// The verb with this name in a log; None for one of a later version.
#[must_use]
pub fn named(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

macro_rules! verbs {
    ($($number:literal $name:literal $role:ident $effect:ident $answer:ident
       $subject:ident$(($object:expr))? = $request:pat,)*) => {
        /// All of them.
        pub const VERBS: &[Verb] = &[$(verbs!(@verb $number $name $role $effect $answer $subject)),*];

        impl Request {
            /// What is decided of its verb.
            #[must_use]
            #[expect(unused_variables, reason = "what a request is about is of no interest here")]
            pub const fn verb(&self) -> &'static Verb {
                match self {
                    $($request => const { &verbs!(@verb $number $name $role $effect $answer $subject) },)*
                }
            }

            /// What it is about.
            #[must_use]
            pub fn subject(&self) -> Subject<'_> {
                match self {
                    $($request => Subject::$subject$(($object))?,)*
                }
            }
        }
    };
    (@verb $number:literal $name:literal $role:ident $effect:ident $answer:ident $subject:ident) => {
        Verb {
            number: $number,
            name: $name,
            role: Role::$role,
            effect: Effect::$effect,
            answer: Answer::$answer,
            subject: SubjectKind::$subject,
        }
    };
}

verbs! {
    0 "node info" Viewer Reads Now Node = Request::NodeInfo,
    1 "node log" Viewer Reads Now Node = Request::NodeLog { .. },
    2 "node nics" Viewer Reads Now Node = Request::NodeCards,
    3 "node poweroff" Admin Changes Now Node = Request::NodeStop { power_off: true },
    3 "node reboot" Admin Changes Now Node = Request::NodeStop { power_off: false },
    4 "inject-fault" Admin Changes Now Node = Request::InjectFault(_),
    5 "node key show" Viewer Reads Now Node = Request::NodeKeys,
    6 "node key rotate" Admin Changes Job Node = Request::NodeKeyRotate,
    7 "trust show" Viewer Reads Now Node = Request::TrustShow,
    8 "trust update" Admin Rescues Job Node = Request::TrustUpdate { .. },
    9 "node lockdown" Admin Rescues Job Node = Request::Lockdown,
    10 "audit read" Viewer Reads Now Node = Request::AuditRead { .. },
    11 "revision" Viewer Reads Now Guest(name) = Request::Revision { of: Some(name), .. },
    11 "node revision" Viewer Reads Now Node = Request::Revision { of: None, .. },
    12 "node state" Viewer Reads Now Node = Request::StateShow,
    13 "config export" Admin Streams Now Node = Request::ConfigExport { .. },
    14 "config import" Admin Changes Job Node = Request::ConfigImport { .. },
    15 "job list" Viewer Reads Now Node = Request::JobList,
    16 "job wait" Viewer Reads Now Job(*id) = Request::JobWait { id, .. },
    // And the role that the job itself needs.
    17 "job cancel" Operator Changes Now Job(*id) = Request::JobCancel { id },
    18 "progress" Viewer Reads Now Node = Request::Progress { .. },
    // It opens connections to wherever it is told.
    19 "storage discover" Operator Prepares Job Search(place(discover)) = Request::StorageDiscover(discover),
    20 "storage show" Viewer Reads Now Volume(name) = Request::StorageShow { volume: Some(name), .. },
    20 "storage show" Viewer Reads Now Node = Request::StorageShow { volume: None, .. },
    21 "storage probe" Operator Changes Job Volume(volume) = Request::StorageProbe { volume, .. },
    22 "storage reserve" Operator Changes Job Volume(volume)
        = Request::StorageReserve { volume, force: false, .. },
    // What another node holds may be in use there.
    22 "storage reserve --force" Admin Changes Job Volume(volume)
        = Request::StorageReserve { volume, force: true, .. },
    23 "storage release" Operator Changes Job Volume(volume)
        = Request::StorageRelease { volume, force: false, .. },
    23 "storage release --force" Admin Changes Job Volume(volume)
        = Request::StorageRelease { volume, force: true, .. },
    24 "storage path enable" Operator Changes Now Volume(volume)
        = Request::StoragePath { volume, enabled: true, .. },
    24 "storage path disable" Operator Changes Now Volume(volume)
        = Request::StoragePath { volume, enabled: false, .. },
    25 "blob missing" Viewer Reads Now Node = Request::BlobMissing(_),
    26 "blob put" Operator Prepares Now Node = Request::BlobPut { .. },
    27 "list" Viewer Reads Now Node = Request::List,
    28 "info" Viewer Reads Now Guest(name) = Request::Info { name },
    29 "show" Viewer Reads Now Guest(name) = Request::GuestShow { name },
    30 "traffic" Viewer Reads Now Node = Request::Traffic,
    31 "check" Viewer Reads Now Guest(&machine.name) = Request::Check { machine, .. },
    32 "create" Operator Changes Job Guest(&machine.name) = Request::Create { machine, .. },
    33 "start" Operator Changes Job Guest(name) = Request::Start { name },
    34 "autostart on" Operator Changes Job Guest(name) = Request::Autostart { name, order: Some(_) },
    34 "autostart off" Operator Changes Job Guest(name) = Request::Autostart { name, order: None },
    35 "pause" Operator Changes Now Guest(name) = Request::Pause { name },
    36 "unpause" Operator Changes Now Guest(name) = Request::Unpause { name },
    37 "shutdown" Operator Changes Now Guest(name) = Request::Shutdown { name },
    38 "reboot" Operator Changes Now Guest(name) = Request::Reboot { name },
    39 "destroy" Operator Changes Now Guest(name) = Request::Destroy { name },
    40 "rename" Operator Changes Job Guest(name) = Request::Rename { name, .. },
    41 "limit" Operator Changes Job Guest(name) = Request::Limit { name, .. },
    42 "block-list" Viewer Reads Now Guest(name) = Request::BlockList { name },
    43 "block-attach" Operator Changes Job Guest(name) = Request::BlockAttach { name, .. },
    44 "block-detach" Operator Changes Job Guest(name) = Request::BlockDetach { name, .. },
    45 "console read" Operator Streams Now Guest(name) = Request::ConsoleRead { name, .. },
    46 "console write" Operator Streams Now Guest(name) = Request::ConsoleWrite { name, .. },
    47 "capture" Operator Streams Now Guest(name) = Request::Capture { name, .. },
}

fn place(discover: &Discover) -> &str {
    match discover {
        Discover::Aoe => "aoe",
        Discover::Iscsi { portal, .. } => portal,
    }
}

impl Request {
    /// The guest it is about, by name.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        if let Subject::Guest(name) = self.subject() { Some(name) } else { None }
    }

    /// What it is about, as logs and lists of jobs name it: empty for the node. A volume's
    /// name that may hold a password is cut there.
    #[must_use]
    pub fn object(&self) -> Cow<'_, str> {
        match self.subject() {
            Subject::Node => "".into(),
            Subject::Guest(name) => name.into(),
            Subject::Volume(name) | Subject::Search(name) => user::without_secret(name),
            Subject::Job(id) => format!("{id}").into(),
        }
    }

    /// Whether it holds a secret, or may: who asks must know whom.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        let is_secret =
            |setting: &DiskSetting| matches!(setting, DiskSetting::Secret(_) | DiskSetting::TargetSecret(..));
        match self {
            Self::StorageDiscover(Discover::Iscsi { settings, .. })
            | Self::StorageProbe { settings, .. }
            | Self::StorageReserve { settings, .. }
            | Self::StorageRelease { settings, .. }
            | Self::BlockAttach { settings, .. } => settings.iter().any(is_secret),
            Self::Check { settings, .. } | Self::Create { settings, .. } => {
                settings.disks.iter().flatten().any(is_secret)
            }
            // People type passwords there.
            Self::ConsoleWrite { .. } => true,
            _ => false,
        }
    }

    /// Whether it changes what other operators see.
    #[must_use]
    pub const fn changes(&self) -> bool {
        self.verb().changes()
    }

    /// Whether it becomes a job, unless it is answered at once.
    #[must_use]
    pub const fn is_job(&self) -> bool {
        matches!(self.verb().answer, Answer::Job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use alloc::vec::Vec;

    #[test]
    fn numbers_are_those_of_the_wire() {
        let requests = vectors::requests();
        assert!(requests.len() <= 128, "the protocol has at most 128 verbs");
        for (number, request) in requests.iter().enumerate() {
            assert_eq!(usize::from(request.verb().number), number);
            assert_eq!(postcard::to_allocvec(request).unwrap()[0], request.verb().number);
        }
        let mut listed: Vec<u8> = VERBS.iter().map(|verb| verb.number).collect();
        listed.dedup();
        assert_eq!(listed.len(), requests.len(), "each verb is in one place");
    }

    /// An entry of the log is judged by the same line as its command.
    #[test]
    fn a_name_leads_back_to_its_verb() {
        for verb in VERBS {
            let found = named(verb.name).unwrap();
            // One that is about all volumes or one has the name twice.
            assert_eq!(Verb { subject: verb.subject, ..*found }, *verb);
            assert!(found.subject == verb.subject || !verb.is_recorded());
        }
        assert_eq!(named("fly"), None);
    }

    #[test]
    fn what_only_looks_is_for_viewers_and_becomes_no_job() {
        for verb in VERBS {
            assert_eq!(verb.is_look(), verb.effect == Effect::Reads, "{verb:?}");
            assert!(!verb.is_look() || verb.answer == Answer::Now, "{verb:?}");
        }
    }

    #[test]
    fn no_request_with_a_secret_is_missed() {
        let discoveries = vectors::discoveries().into_iter().map(Request::StorageDiscover);
        let mut found = 0;
        for request in vectors::requests().into_iter().chain(discoveries) {
            let bytes = postcard::to_allocvec(&request).unwrap();
            let shows = bytes.windows(6).any(|window| window == b"sesame");
            assert_eq!(request.has_secret(), shows, "{request:?}");
            found += usize::from(shows);
        }
        assert!(found >= 4, "{found}");
    }
}
