//! One line for each reason: its fields, its code, what it means, what is said of it, what
//! to do about it. The order is the wire format.

use super::{AddressOwner, Explanation, Persisted, TooLate};
use crate::code::Code;
use crate::role::Role;
use alloc::format;
use alloc::string::String;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($name:ident $({ $($field:ident: $type:ty),* })? $code:ident
       $meaning:literal, $message:literal, $remedy:literal;)*) => {
        /// Why a request was refused, or failed.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "each is documented by its meaning, which is data here")]
        pub enum Reason {
            /// Put into words by the node.
            Said {
                code: Code,
                message: String,
                remedy: String,
            },
            $($name $({ $($field: $type),* })?,)*
        }

        impl Reason {
            /// What kind of failure it is.
            #[must_use]
            pub const fn code(&self) -> Code {
                match self {
                    $(Self::$name { .. } => Code::$code,)*
                    Self::Said { code, .. } => *code,
                }
            }

            /// Its name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)*
                    Self::Said { .. } => "Said",
                }
            }

            /// What is wrong, in words, to be read after the name of the object.
            #[must_use]
            #[expect(unused_variables, reason = "not all fields are in each text")]
            pub fn message(&self) -> String {
                match self {
                    $(Self::$name $({ $($field),* })? => format!($message),)*
                    Self::Said { message, .. } => message.clone(),
                }
            }

            /// What to do about it.
            #[must_use]
            #[expect(unused_variables, reason = "not all fields are in each text")]
            pub fn remedy(&self) -> String {
                match self {
                    $(Self::$name $({ $($field),* })? => format!($remedy),)*
                    Self::Said { remedy, .. } => remedy.clone(),
                }
            }
        }

        /// Each reason, in the order of the wire.
        pub const EXPLANATIONS: &[Explanation] = &[
            Explanation {
                name: "Said",
                code: None,
                meaning: "The node says in words what is wrong.",
                message: "{message}",
                remedy: "{remedy}",
            },
            $(Explanation {
                name: stringify!($name),
                code: Some(Code::$code),
                meaning: $meaning,
                message: $message,
                remedy: $remedy,
            },)*
        ];
    };
}

reasons! {
    RoleMissing { needed: Role, found: Role } Refused
        "The key has a lower role than the request needs.",
        "needs the role {needed:?}, this key has {found:?}", "ask the owner for another role";
    GuestNotGranted Refused
        "The key's grant does not cover the guest.",
        "this key may not touch this guest", "ask the owner for a grant that covers it";
    LockedDown Policy
        "The node is locked down: it runs its guests and obeys only requests that read.",
        "the node is locked down", "bring a trust bundle that the roots have signed: `key bundle push`";
    FaultInjectionOff Policy
        "The owner has not allowed this node to fail on request.",
        "this node does not fail on request", "seal an image with fault_injection = true";
    AnswerTooLong Internal
        "The answer does not fit a message.",
        "the answer is too long", "ask for less";
    TooManyDigests { found: u64, most: u64 } Usage
        "A request may ask for a bounded number of files.",
        "asks for {found} files; {most} at once are possible", "ask in several requests";
    NoGuest NotFound
        "There is no guest of that name on the node.",
        "no guest has that name", "see `redoubt list`";
    NoGuestAnywhere NotFound
        "There is no guest of that name, neither on the node nor on its state volume.",
        "no guest has that name, here or on the state volume",
        "create it from its file; `redoubt node state` lists those that are kept";
    GuestExists Conflict
        "Names are unique on a node.",
        "a guest of that name exists", "destroy it or choose another name";
    GuestPresent Conflict
        "The guest is on the node and has not ended.",
        "is there already", "see `redoubt list`";
    GuestBusy Conflict
        "A job about the guest is under way.",
        "something is under way with it", "wait for it: `redoubt job list`";
    NotRunning Conflict
        "The request needs a guest that runs.",
        "is not running", "see `redoubt list`; unpause it, start it, or destroy it";
    NotPaused Conflict
        "The request needs a guest that is paused.",
        "is not paused", "see `redoubt list`";
    Starting Conflict
        "The guest has not started yet.",
        "is starting", "try again when it runs";
    DestroyedBeforeStart Conflict
        "The guest was destroyed while others waited for its start.",
        "was destroyed before it started", "create it again";
    Changed { now: u64, expected: u64 } Conflict
        "Another operator changed the object after it was read.",
        "was changed meanwhile: it is at revision {now}, not {expected}",
        "look at it again: `redoubt info`, `redoubt node info`, `redoubt audit show`";
    ConsoleTaken Conflict
        "One session at a time types on a console.",
        "another session types on this console", "read along, and type when it leaves or rests for 10 s";
    ConsoleInputTooLong { found: u64, most: u64 } Usage
        "Console input arrives in bounded pieces.",
        "{found} bytes were typed; {most} at once are possible", "type in pieces; nothing was taken";
    ConsoleFull { taken: u64, of: u64 } Partial
        "The guest's console buffer is full.",
        "took {taken} of {of} bytes", "the guest does not read its console";
    TooManyCaptures { most: u64 } Capacity
        "A bounded number of guests is captured at a time.",
        "{most} guests are captured already", "end another capture";
    NoMemory { wanted_mib: u64, free_mib: u64 } Capacity
        "The node has less free memory than the guest asks for.",
        "{wanted_mib} MiB of memory are asked for, {free_mib} MiB are free", "ask for less or destroy a guest";
    NoDomainSlot Capacity
        "The hypervisor's table of domains is full.",
        "no slot is free", "destroy a guest";
    SwitchFull Capacity
        "The virtual switch has no port left.",
        "the switch is full", "destroy a guest";
    NoHeap { wanted_kib: u64, free_kib: u64, total_kib: u64 } Capacity
        "dom0's own memory is promised to guests and volumes that are there.",
        "up to {wanted_kib} KiB of dom0's own memory are needed, {free_kib} KiB of {total_kib} are free",
        "give it fewer disks or portals, or destroy a guest";
    NoConnections { wanted: u64, free: u64, most: u64 } Capacity
        "A bounded number of volumes is connected over iSCSI.",
        "{wanted} iSCSI disks are asked for, {free} of {most} are free",
        "use AoE, or destroy a guest with iSCSI disks";
    Hypervisor { what: String } Internal
        "The hypervisor refused something that it should not.",
        "{what}", "see `redoubt node log`";
    KernelMissing { what: String } NotFound
        "The node does not have a file that the guest is to start from.",
        "the node does not have its {what}", "send it again";
    DiskAttaching Conflict
        "One disk at a time is attached to a guest.",
        "another disk is being attached", "try again in a few seconds";
    NoDiskSlot Capacity
        "All slots of the guest are in use.",
        "has no slot left", "detach a disk, or reboot it";
    NoSuchSlot { slot: u32 } NotFound
        "The guest has no disk in that slot.",
        "has no disk in slot {slot}", "see `redoubt block-list`";
    DiskNotReleased Deadline
        "The guest was asked for the disk and still uses it.",
        "was asked for the disk and has not given it back yet", "wait, unmount it there, or use --force";
    GuestGone { why: String } Conflict
        "The guest of the disk is not there any more, or not as it was.",
        "its guest {why}", "try again";
    TooManyLimits Usage
        "A list of limits names each kind once.",
        "too many limits", "give each once";
    VolumeUsed { guest: String, volume: String } Conflict
        "A volume that is written has one user.",
        "guest {guest} uses {volume}", "a disk that is written has one user";
    VolumeOfState { volume: String } Conflict
        "The node keeps its own state on that volume.",
        "{volume} is the node's own state volume", "use another volume";
    NoSuchJob NotFound
        "The node does not know a job with that number.",
        "is not known",
        "see `redoubt job list`; dom0 forgets them 10 minutes after their end, and when it restarts";
    JobEnded Conflict
        "The job has ended.",
        "has ended", "see `redoubt job list`";
    JobCancelled Conflict
        "An operator cancelled the job; nothing of it is left.",
        "was cancelled", "begin it again";
    JobPastCancelling { why: TooLate, ends_s: u64 } Conflict
        "The job cannot be undone any more.",
        "cannot be cancelled: {why}", "it ends within {ends_s} s";
    TooManyJobs { running: u64 } Capacity
        "A bounded number of jobs is under way at a time.",
        "{running} jobs are under way", "wait for one, or cancel it: `redoubt job list`";
    NoAuditMemory Capacity
        "The node has no memory for the audit log.",
        "no memory for the audit log, and what is not recorded is not done", "destroy a guest";
    AuditBehind { waiting: u64 } Capacity
        "The audit log waits for the state volume.",
        "{waiting} audit entries wait for the state volume, and what is not recorded is not done",
        "bring the volume back: see `redoubt node state`";
    BlobLength { bytes: u64 } Usage
        "A file has 1 byte to 512 MiB.",
        "the file has {bytes} bytes", "1 byte to 512 MiB are possible";
    BlobNoRoom { wanted_mib: u64, free_mib: u64 } Capacity
        "The node has no memory for the file.",
        "no room for a file of {wanted_mib} MiB: {free_mib} MiB are free",
        "destroy a guest, or wait until other files have come: see `redoubt list`";
    BlobsInUse { most: u64 } Capacity
        "A node holds a bounded number of files.",
        "{most} files are in use, or no slot is free", "destroy a guest";
    BlobDamaged Integrity
        "The bytes that came are not those that were announced.",
        "the file's bytes are not what its digest says", "send it again";
    BlobOverlong Integrity
        "More bytes came than were announced.",
        "more bytes came than were announced", "send it again";
    BlobElsewhere Conflict
        "One session at a time sends a file.",
        "another session sends this file", "wait until it has ended";
    BlobIdle { idle_s: u64 } Deadline
        "No byte of the announced file came for long.",
        "no byte of the file came for {idle_s} s", "go on with it: create the guest again";
    BlobQuota { sending_mib: u64, most_mib: u64 } Capacity
        "The files that one key sends at a time are bounded.",
        "this key sends files of {sending_mib} MiB in other sessions already; {most_mib} MiB at a time are possible",
        "wait until they have come";
    MacTaken { owner: String } Conflict
        "Each vif of a node has a MAC of its own.",
        "{owner} has the same MAC as one of its vifs", "give vif another mac";
    VifNotGranted { vif: u32, beyond: String } Policy
        "The vif asks for a privilege that the owner has not granted.",
        "vif {vif} asks for {beyond}, which the owner has not granted",
        "the owner grants it in a trust bundle (card_grant) or the sealed settings";
    VifWithoutAddress { vif: u32 } Usage
        "The node was sealed to require that each vif names its addresses.",
        "vif {vif} has no ip, which this node was sealed to require", "add ip = [\"ADDRESS\"] to it";
    AddressTaken { vif: u32, address: IpAddr, owner: AddressOwner } Conflict
        "The address belongs to something that the node or other guests depend on.",
        "vif {vif} is to have {address}, which is {owner}", "give it another ip";
    NoStateVolume Policy
        "The node's image names no state volume.",
        "the node has no state volume", "seal an image with a state volume: state = \"aoe:e9.0\"";
    NotKept NotFound
        "The guest does not start with the node.",
        "does not start with the node", "see `redoubt node state`";
    TooManyKept { most: u64 } Capacity
        "A bounded number of guests starts with a node.",
        "{most} guests start with the node already", "see `redoubt node state`";
    TooManySettings Capacity
        "The guest's options do not fit a value of the state volume.",
        "has more settings than can be kept", "give it fewer";
    StateNoRoom { wanted_mib: u64 } Capacity
        "The state volume has no room for the guest's files.",
        "its kernel and initrd take {wanted_mib} MiB, which the state volume does not have",
        "use a larger volume, a smaller initrd, or keep fewer guests";
    StateFull Capacity
        "The state volume is full.",
        "the state volume is full: it is not kept", "see `redoubt node state`; keep fewer guests";
    NotSealed Internal
        "A value could not be encrypted for the state volume.",
        "could not be sealed", "report this";
    SecretMissing { disk: u32 } Conflict
        "The secret of a disk is not on the node.",
        "the secret of disk {disk} is not here", "create it from its file";
    KeyRotating Conflict
        "Another key of the node is being made durable.",
        "another key is being kept", "try again in a few seconds";
    FilesNotKept NotFound
        "The guest's kernel or initrd is not on the state volume.",
        "its kernel or initrd is not on the state volume", "create it from its file";
    FilesDamaged Integrity
        "The guest's kernel or initrd is damaged on the state volume.",
        "its kernel or initrd is damaged on the state volume", "create it from its file";
    FilesLate Storage
        "The state volume did not answer in time.",
        "its kernel did not come from the state volume in time", "see `redoubt node state`";
    ConfigTooLong Capacity
        "The configuration of the node does not fit a file.",
        "the configuration is too long", "keep fewer guests";
    ConfigMissing NotFound
        "The configuration is sent as a blob before it is imported.",
        "the configuration was not sent", "send it first";
    VolumeNotUsed NotFound
        "No guest uses that volume.",
        "no guest uses this volume", "see `redoubt storage show`";
    VolumeNameTooLong Usage
        "The name of a volume has at most 512 bytes.",
        "the name of a volume is too long", "at most 512 bytes";
    NoSuchPath { path: u32 } NotFound
        "The volume has no path with that number.",
        "has no path {path}", "see `redoubt storage path list`";
    LastPath { path: u32 } Conflict
        "A volume keeps at least one path in use.",
        "path {path} is the last one in use", "enable another one first";
    SearchBusy Conflict
        "One search for volumes at a time is under way.",
        "another discovery is under way", "try again in a few seconds";
    ProbeBusy Conflict
        "One volume at a time is tried.",
        "another volume is being tried", "try again in a few seconds";
    NoReservations Storage
        "The target does not know reservations.",
        "the target has no reservations", "keep it from other nodes by other means";
    ReservedElsewhere { holder: String } Conflict
        "Another node holds the volume's reservation.",
        "is reserved by another node: {holder}",
        "release it there, or use --force if that node is surely gone";
    VolumeSilent { detail: String } Storage
        "The volume's target cannot be used.",
        "{detail}", "check the target and what is set for the volume";
    TargetPending Deadline
        "The target has not answered yet.",
        "the target has not answered yet; it is asked for as long as the disk is used",
        "see `redoubt storage show`";
    PortalSilent { detail: String } Storage
        "The portal cannot be asked for its targets.",
        "{detail}", "check address and target";
    FilesMissing NotFound
        "The guest's kernel or initrd is not on the node.",
        "its kernel or initrd is not here", "send it by `create`";
    StateAwaited { why: String } Policy
        "The state volume holds which keys were revoked, and has not come yet.",
        "the state volume {why}: until it comes, the node does not know which keys were revoked, \
         and obeys only requests that look",
        "bring the volume back: see `redoubt node state`";
    StateUnavailable { volume: String, why: String } Storage
        "The state volume cannot be written now.",
        "the state volume {volume} {why}", "see `redoubt node state`";
    StateLost { so_far: Persisted, why: String } Storage
        "The state volume was lost before the change was durable.",
        "{so_far} not kept: the state volume {why}", "see `redoubt node state`";
    StateSlow { so_far: Persisted } Deadline
        "The state volume has not answered in time; the change is written when it does.",
        "{so_far} kept when the state volume answers", "see `redoubt node state`";
    KernelGone Capacity
        "The kernel left the node before it was on the state volume.",
        "is not kept: its kernel is gone", "see `redoubt node state`";
    StateNoRoomForKernel Capacity
        "The state volume has no room for the guest's kernel.",
        "is not kept: the state volume has no room for its kernel", "see `redoubt node state`";
}
