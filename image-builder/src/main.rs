//! `image-builder`, also as `cargo image`: builds, seals and verifies the one
//! file.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use image_builder::verify::{Report, part_name, verify};
use image_builder::{dev, seal, settings};
use keys::PublicKey;
use keys::public::fingerprint;
use mgmt_proto::manifest::AoeCards;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "image-builder", version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    build: Build,
}

#[derive(Subcommand)]
enum Command {
    /// Builds both programs and seals them with development keys (the default)
    Build(Build),
    /// Seals an existing image for an owner; needs no Rust toolchain
    Seal(Seal),
    /// Says whether an image is exactly what its owner sealed
    Verify(Verify),
    /// Like verify, and lists the parts
    Info(Verify),
}

#[derive(Args)]
struct Build {
    /// Seals with development keys; there are no others here
    #[arg(long, conflicts_with = "unsealed")]
    development: bool,
    /// Leaves the image without owner, to be sealed later
    #[arg(long)]
    unsealed: bool,
    /// Lets an admin make dom0 fail, for tests
    #[arg(long, conflicts_with = "unsealed")]
    fault_injection: bool,
    /// Where to write [default: target/image/redoubt.img]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct Seal {
    /// Image to take the programs from
    #[arg(long = "image", value_name = "PATH")]
    input: PathBuf,
    /// Where to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Private key of the owner
    #[arg(long, value_name = "KEY")]
    owner: PathBuf,
    /// Settings: node.toml
    settings: PathBuf,
}

#[derive(Args)]
struct Verify {
    /// Image
    file: PathBuf,
    /// Public key the image must be sealed by
    #[arg(long, value_name = "PUB")]
    owner: Option<PathBuf>,
}

/// Exit code when an image is not what its owner sealed, as `redoubt` has it.
const INTEGRITY: u8 = 13;

/// Marks the error of an image that was refused.
#[derive(Debug)]
struct Refused(PathBuf);

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: refused", self.0.display())
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Refused>() { ExitCode::from(INTEGRITY) } else { ExitCode::FAILURE }
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command.unwrap_or(Command::Build(arguments.build)) {
        Command::Build(build) => run_build(build),
        Command::Seal(seal) => run_seal(&seal),
        Command::Verify(arguments) => run_verify(&arguments, false),
        Command::Info(arguments) => run_verify(&arguments, true),
    }
}

fn run_build(build: Build) -> Result<()> {
    let pieces = dev::build_pieces()?;
    if build.unsealed {
        let path = build.out.unwrap_or_else(dev::default_path);
        dev::write_unsealed(&pieces, &path)?;
        println!("{}: not sealed; no node obeys it yet", path.display());
        return Ok(());
    }
    let options =
        dev::Options { out: build.out, fault_injection: build.fault_injection, ..dev::Options::default() };
    let image = dev::seal_image(&pieces, &options, &dev::key_directory())?;
    let report = verify(&read(&image.path)?, None)?;
    println!("{}: {} bytes", image.path.display(), report.bytes);
    println!("sha256 {}", hex::encode(report.sha256));
    println!("operator {} (development keys)", image.operator_key_path.display());
    Ok(())
}

fn run_seal(arguments: &Seal) -> Result<()> {
    let owner = keys::secret::load(&arguments.owner)?;
    let directory = arguments.settings.parent().unwrap_or_else(|| Path::new("."));
    let manifest = settings::Settings::load(&arguments.settings)?
        .manifest(owner.verifying_key().to_bytes(), directory)
        .with_context(|| arguments.settings.display().to_string())?;
    let input = read(&arguments.input)?;
    let file = seal::reseal(&input, &manifest, &owner).with_context(|| Refused(arguments.input.clone()))?;
    dev::write(&arguments.out, &file)?;
    let report = verify(&read(&arguments.out)?, Some(&manifest.owner))?;
    println!("{}: sealed", arguments.out.display());
    print_report(&report, false);
    Ok(())
}

fn run_verify(arguments: &Verify, with_parts: bool) -> Result<()> {
    let owner = arguments.owner.as_deref().map(PublicKey::load).transpose()?;
    let report = verify(&read(&arguments.file)?, owner.as_ref().map(|key| &key.bytes))
        .with_context(|| Refused(arguments.file.clone()))?;
    println!("{}: intact", arguments.file.display());
    print_report(&report, with_parts);
    Ok(())
}

fn print_report(report: &Report, with_parts: bool) {
    let manifest = &report.manifest;
    println!("sha256           {}", hex::encode(report.sha256));
    println!("bytes            {}", report.bytes);
    println!("owner            {}", fingerprint(&manifest.owner));
    for operator in &manifest.operators {
        println!("operator         {} {:?}", fingerprint(&operator.key), operator.role);
    }
    println!("name             {}", manifest.name);
    let encoded = manifest.encode().unwrap_or_default();
    println!("manifest         {}", hex::encode(Sha256::digest(encoded)));
    println!("addressing       {}", manifest.addressing);
    println!("mtu              {}", manifest.mtu);
    for card in &manifest.storage_cards {
        println!("storage card     {}", card);
    }
    if manifest.aoe == AoeCards::Storage {
        println!("aoe              on storage cards only");
    }
    println!("port             {}", manifest.port);
    if manifest.guest_addresses_required {
        println!("guests' vifs     send nothing without ip");
    }
    for grant in &manifest.card_grants {
        println!("card grant       {grant}");
    }
    println!("fault injection  {}", manifest.fault_injection);
    println!("dom0 CPU         {}", format!("{:?}", manifest.dom0_cpu).to_lowercase());
    println!("smt              {}", if manifest.smt { "on" } else { "off" });
    println!("restart delay    {} s", manifest.restart_delay_s);
    match &manifest.state {
        None => println!("state            none: nothing is kept"),
        Some(state) if state.wait_s == 0 => println!("state            {}, waited for", state.volume),
        Some(state) => println!("state            {}, waited for {} s", state.volume, state.wait_s),
    }
    if with_parts {
        for (kind, length, memory_length) in &report.parts {
            println!(
                "part             {:<10} {length:>8} bytes, {memory_length} in memory",
                part_name(*kind)
            );
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
