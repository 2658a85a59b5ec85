//! `redoubt storage bench`, `read` and `write`: a volume from the workstation, without
//! a node.

use crate::arguments::{Global, word};
use crate::scope::print_answer;
use clap::Args;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::disk::Digests;
use mgmt_proto::units::{decimal, parse_mac, parse_size};
use redoubt::answer::Answer;
use redoubt::disk_text;
use redoubt::exit;
use redoubt::initiator::bench::{self, Extent, Job, Measured};
use redoubt::initiator::{Initiator, Options, copy, nanoseconds, secret};
use redoubt::table::Table;
use serde::Serialize;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use storage::iscsi::{Credentials, Portal};
use storage::volume::{VolumeName, user};

/// How long a target may keep silent, unless `--timeout` says otherwise.
const PATIENCE_SECONDS: u64 = 30;

#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// The volume: aoe:e11.1, or iscsi://[user@]address[:port]/iqn/lun
    // Read later: what may hold a password is not to be quoted.
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Network interface that leads to an AoE target; several are several paths
    #[arg(long, value_name = "NAME", help_heading = "AoE")]
    interface: Vec<String>,
    /// Largest Ethernet payload, if not the interface's
    #[arg(long, value_name = "BYTES", help_heading = "AoE")]
    mtu: Option<usize>,
    /// The only stations believed to be the target
    #[arg(long, value_name = "MAC", value_parser = station, help_heading = "AoE")]
    mac: Vec<[u8; 6]>,
    /// Another portal of the same target: another path
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = portal, help_heading = "iSCSI")]
    portal: Vec<Portal>,
    /// Use all portals at the same time, not one until it fails
    #[arg(long, help_heading = "iSCSI")]
    round_robin: bool,
    /// Digests of headers and data
    #[arg(long, default_value = "preferred", help_heading = "iSCSI", value_parser = word::<Digests>(&[
        ("preferred", "If the target has them"),
        ("required", "A target without them is refused"),
        ("off", "None"),
    ]))]
    digests: Digests,
    /// Our iSCSI name
    #[arg(long, value_name = "IQN", help_heading = "iSCSI")]
    initiator: Option<String>,
    /// The user to log in as, any name: as user@ in the volume's name
    #[arg(long, value_name = "NAME", help_heading = "iSCSI")]
    user: Option<String>,
    /// File with the CHAP secret; without, it is asked for
    #[arg(long, value_name = "FILE", help_heading = "iSCSI")]
    secret_file: Option<PathBuf>,
    /// File with the secret by which the target has to prove itself (mutual CHAP)
    #[arg(long, value_name = "FILE", help_heading = "iSCSI")]
    target_secret_file: Option<PathBuf>,
    /// Let CHAP use MD5, for targets that know nothing better
    #[arg(long, help_heading = "iSCSI")]
    allow_md5: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    reach: Reach,
    /// Read (the default)
    #[arg(long, conflicts_with = "write")]
    read: bool,
    /// Write: what the volume holds is lost
    #[arg(long)]
    write: bool,
    /// One block after the other, not at random places
    #[arg(long)]
    sequential: bool,
    /// At random places (the default)
    #[arg(long, conflicts_with = "sequential")]
    random: bool,
    /// Bytes of a request
    #[arg(long, default_value = "4k", value_name = "SIZE", value_parser = size)]
    block_size: u64,
    /// Requests under way at a time
    #[arg(long, default_value_t = 32, value_name = "N")]
    depth: usize,
    /// How long
    #[arg(long, default_value_t = 5, value_name = "S", conflicts_with = "count",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// So many requests instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    range: Range,
}

#[derive(Debug, Args)]
pub(crate) struct Range {
    /// First byte of the volume
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = size)]
    offset: u64,
    /// So many bytes [default: to the end]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    length: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Transfer {
    #[command(flatten)]
    reach: Reach,
    /// The file; - is the standard output or input
    #[arg(default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    range: Range,
}

#[derive(Serialize)]
struct Times {
    mean: u64,
    p50: u64,
    p99: u64,
    p99_9: u64,
    longest: u64,
}

#[derive(Serialize)]
struct Report {
    volume: String,
    operation: &'static str,
    pattern: &'static str,
    block_bytes: u64,
    depth: usize,
    requests: u64,
    seconds: f64,
    iops: f64,
    bytes_per_second: f64,
    latency_ns: Times,
    retries: u64,
    stalls: u64,
    merged: u64,
    digest_errors: u64,
}

#[derive(Serialize)]
struct Copied {
    volume: String,
    verb: &'static str,
    bytes: u64,
    seconds: f64,
}

fn station(text: &str) -> Result<[u8; 6], &'static str> {
    parse_mac(text).ok_or("write 02:00:00:00:00:01")
}

fn portal(text: &str) -> Result<Portal, String> {
    Portal::parse(text).ok_or_else(|| "write an IPv4 address, with :port unless it is 3260".into())
}

fn size(text: &str) -> Result<u64, &'static str> {
    parse_size(text, 1).ok_or("write bytes, or 4k, 16M, 2G")
}

impl Reach {
    fn name(&self) -> Result<VolumeName, Failure> {
        let wrong = |(message, remedy)| exit::usage(user::without_secret(&self.volume), message, remedy);
        disk_text::volume_name(&self.volume, self.user.as_deref()).map_err(wrong)
    }

    fn options(&self, global: &Global, name: &VolumeName, read_only: bool) -> Result<Options, Failure> {
        let patience = Duration::from_secs(global.timeout.unwrap_or(PATIENCE_SECONDS));
        let mut options = Options {
            interfaces: self.interface.clone(),
            mtu: self.mtu,
            macs: self.mac.clone(),
            portals: self.portal.clone(),
            round_robin: self.round_robin,
            credentials: self.credentials(name)?,
            digests: self.digests.into(),
            read_only,
            patience: Some(patience),
            ..Options::default()
        };
        if let Some(name) = &self.initiator {
            options.initiator.clone_from(name);
        }
        Ok(options)
    }

    fn credentials(&self, name: &VolumeName) -> Result<Option<Credentials>, Failure> {
        let VolumeName::Iscsi { user: Some(user), .. } = name else {
            if self.secret_file.is_some() || self.target_secret_file.is_some() {
                let remedy = "name the user with --user, or as iscsi://user@address/iqn/lun";
                return Err(exit::usage(name.to_string(), "a secret without a user", remedy));
            }
            return Ok(None);
        };
        let secret = match &self.secret_file {
            Some(path) => secret::load(path)?,
            None => secret::ask(&format!("CHAP secret of {user} for {name}: "))?,
        };
        let target = self.target_secret_file.as_deref().map(secret::load).transpose()?;
        let target = target.map(|secret| (None, secret));
        Ok(Some(Credentials { name: user.clone(), secret, target, allow_md5: self.allow_md5 }))
    }

    fn open(&self, global: &Global, name: &VolumeName, read_only: bool) -> Result<Initiator, Failure> {
        let options = self.options(global, name, read_only)?;
        let mut initiator = Initiator::open(name, &options)?;
        initiator.wait_until_ready(options.patience.unwrap_or_default())?;
        for (name, value) in &initiator.status().negotiated {
            log::debug!("{name}: {value}");
        }
        Ok(initiator)
    }
}

/// Whether the volume may be overwritten: by an option, or a person says so.
fn consent(global: &Global, name: &VolumeName, what: &str) -> Result<(), Failure> {
    if global.yes {
        return Ok(());
    }
    let refused =
        |why: &str| Err(Failure::new(Code::Refused, name.to_string(), why, "say --yes to overwrite it"));
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return refused("no terminal is there to ask whether it may be overwritten");
    }
    eprint!("{what} of {name} will be lost. Overwrite it? [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    match line.trim() {
        "y" | "Y" | "yes" if read.is_ok() => Ok(()),
        _ => refused("not overwritten"),
    }
}

/// Measures a volume.
pub(crate) fn bench(global: &Global, options: &Bench) -> Result<(), Failure> {
    let job = Job {
        write: options.write,
        random: !options.sequential,
        block: options.block_size,
        depth: options.depth,
        extent: options.count.map_or(Extent::Time(Duration::from_secs(options.seconds)), Extent::Count),
        offset: options.range.offset,
        length: options.range.length,
    };
    let name = options.reach.name()?;
    if global.dry_run {
        return look(global, &options.reach, &name, "bench");
    }
    if job.write {
        consent(global, &name, "The contents")?;
    }
    let mut initiator = options.reach.open(global, &name, !job.write)?;
    let measured = bench::run(&mut initiator, &job)?;
    initiator.close()?;
    print_answer(global, report(name.to_string(), &job, &measured))
}

fn report(volume: String, job: &Job, measured: &Measured) -> Answer {
    let seconds = measured.elapsed.as_secs_f64().max(1e-9);
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let requests = measured.requests as f64;
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
    let block = job.block as f64;
    let latency = &measured.latency;
    let report = Report {
        volume,
        operation: if job.write { "write" } else { "read" },
        pattern: if job.random { "random" } else { "sequential" },
        block_bytes: job.block,
        depth: job.depth,
        requests: measured.requests,
        seconds,
        iops: requests / seconds,
        bytes_per_second: requests * block / seconds,
        latency_ns: Times {
            mean: nanoseconds(Duration::from_secs_f64(latency.mean() / 1e9)),
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            p99_9: latency.value_at_quantile(0.999),
            longest: latency.max(),
        },
        retries: measured.counters.retries,
        stalls: measured.counters.stalls,
        merged: measured.counters.merged,
        digest_errors: measured.counters.digest_errors,
    };
    let columns =
        ["Operation", "Pattern", ">Block", ">Depth", ">IOPS", ">MB/s", ">p50(us)", ">p99(us)", ">p99.9(us)"];
    let microseconds = |time_ns| decimal(time_ns, 3, 1);
    let row = vec![
        report.operation.into(),
        report.pattern.into(),
        report.block_bytes.to_string(),
        report.depth.to_string(),
        format!("{:.0}", report.iops),
        format!("{:.2}", report.bytes_per_second / 1e6),
        microseconds(report.latency_ns.p50),
        microseconds(report.latency_ns.p99),
        microseconds(report.latency_ns.p99_9),
    ];
    let mut table = Table::new(&columns);
    table.push(row.clone());
    let mut wide =
        Table::new(&[&columns[..], &[">Requests", ">Time(s)", ">Retries", ">Stalls", ">Merged"]].concat());
    let more = [report.requests.to_string(), format!("{seconds:.1}"), report.retries.to_string()];
    let more = more.into_iter().chain([report.stalls.to_string(), report.merged.to_string()]);
    wide.push(row.into_iter().chain(more).collect());
    let name = report.volume.clone();
    Answer::table(&report, vec![name], table).with_wide(wide)
}

/// Reaches the volume and does nothing.
fn look(global: &Global, reach: &Reach, name: &VolumeName, verb: &'static str) -> Result<(), Failure> {
    reach.open(global, name, true)?.close()?;
    let object = name.to_string();
    print_answer(global, Answer::done(&redoubt::json::Done { object, verb, status: "dry-run", id: None }))
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads a volume to a file.
pub(crate) fn read(global: &Global, options: &Transfer) -> Result<(), Failure> {
    let name = options.reach.name()?;
    if global.dry_run {
        return look(global, &options.reach, &name, "read");
    }
    let standard = is_standard(&options.file);
    if standard && std::io::stdout().is_terminal() {
        return Err(exit::usage("stdout", "a terminal is no place for a disk's bytes", "name a file"));
    }
    let mut initiator = options.reach.open(global, &name, true)?;
    let capacity = initiator.volume().ready_capacity().unwrap_or(0);
    let (first, count) =
        copy::range(options.range.offset, options.range.length, capacity, initiator.block_sectors())?;
    let began = Instant::now();
    let mut output: Box<dyn Write> = if standard {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(&options.file).map_err(|error| exit::file(&options.file, &error))?)
    };
    let mut said = progress(count.saturating_mul(512));
    let bytes = copy::read(&mut initiator, first, count, &mut *output, &mut said)?;
    drop(output);
    initiator.close()?;
    let answer = copied(&name, "read", bytes, began.elapsed());
    if standard {
        eprint!("{}", answer.render(redoubt::answer::Form::Table));
        return Ok(());
    }
    print_answer(global, answer)
}

/// Writes a file to a volume.
pub(crate) fn write(global: &Global, options: &Transfer) -> Result<(), Failure> {
    let name = options.reach.name()?;
    if global.dry_run {
        return look(global, &options.reach, &name, "write");
    }
    let input: Box<dyn Read> = if is_standard(&options.file) {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(&options.file).map_err(|error| exit::file(&options.file, &error))?)
    };
    consent(global, &name, &format!("What lies from byte {} on", options.range.offset))?;
    let mut initiator = options.reach.open(global, &name, false)?;
    let capacity = initiator.volume().ready_capacity().unwrap_or(0);
    let (first, count) =
        copy::range(options.range.offset, options.range.length, capacity, initiator.block_sectors())?;
    let total = std::fs::metadata(&options.file).map_or(0, |it| it.len());
    if options.range.length.is_none() {
        copy::check_end(total, initiator.block_sectors())?;
    }
    // With a length, so much of a longer file.
    let mut input = input.take(options.range.length.unwrap_or(u64::MAX));
    let began = Instant::now();
    let bytes = copy::write(&mut initiator, first, count, &mut input, &mut progress(total))?;
    initiator.close()?;
    print_answer(global, copied(&name, "write", bytes, began.elapsed()))
}

/// A bar on a terminal.
fn progress(total: u64) -> impl FnMut(u64) {
    let bar = std::io::stderr().is_terminal().then(|| indicatif::ProgressBar::new(total));
    move |done| {
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
    }
}

fn copied(name: &VolumeName, verb: &'static str, bytes: u64, elapsed: Duration) -> Answer {
    let volume = name.to_string();
    let seconds = elapsed.as_secs_f64();
    let line = format!("{volume}: {verb} {bytes} bytes in {seconds:.1} s\n");
    Answer::lines(&Copied { volume: volume.clone(), verb, bytes, seconds }, &volume, line)
}
