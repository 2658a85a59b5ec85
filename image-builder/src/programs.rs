//! Builds the two bare-metal programs.
//!
//! They share their target triple with the workstation's programs, so they are
//! built one package at a time, with flags and a target directory of their own.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C panic=abort -C no-redzone=yes -C force-frame-pointers=yes \
    --cfg getrandom_backend=\"custom\" --cfg curve25519_dalek_backend=\"serial\" \
    --cfg sha2_backend=\"soft\" --cfg chacha20_backend=\"soft\" --cfg poly1305_backend=\"soft\"";

/// What the program of ring 0 is built with besides: each indirect branch goes through a
/// return that no prediction steers, those of the precompiled libraries too, as all are
/// compiled together at the end. The stable compiler takes the two features and warns of
/// their names at each crate; `clippy`, which is run without them, reports the rest.
/// That they had their effect is seen in the program itself (`speculation`).
const RING0_FLAGS: &str =
    "-C target-feature=+retpoline-indirect-branches,+retpoline-indirect-calls -A warnings";

/// The two programs as ELF files.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Ring 0.
    pub hypervisor: PathBuf,
    /// Ring 3.
    pub dom0: PathBuf,
}

/// The flags that decide which code the image's programs are made of, for a program of the
/// workstation that is to be measured in their place.
#[must_use]
pub fn code_flags() -> String {
    let apart = |flag: &str| flag.contains("panic") || flag.contains("getrandom_backend");
    let words: Vec<&str> = FLAGS.split_whitespace().collect();
    let pairs = words.chunks(2).filter(|pair| !pair.iter().any(|word| apart(word)));
    pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" ")
}

/// The target for which the image's programs are built.
#[must_use]
pub const fn target() -> &'static str {
    TARGET
}

/// The workspace this crate was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Runs cargo for one bare-metal package: `build`, or `clippy` with its options.
///
/// # Errors
/// When cargo cannot be run or fails.
pub fn cargo(verb: &str, package: &str, extra: &[&str]) -> Result<()> {
    let root = workspace();
    let ring0 = verb == "build" && package == "hypervisor";
    let flags = if ring0 { format!("{FLAGS} {RING0_FLAGS}") } else { FLAGS.to_owned() };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args([verb, "--quiet", "--release", "--target", TARGET, "--features", "image", "--package", package])
        .arg("--target-dir")
        .arg(root.join("target/bare"))
        .args(extra)
        .env("RUSTFLAGS", flags)
        // Names and lines are for the workstation, not for the image.
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo {verb} of {package} failed");
    Ok(())
}

/// Builds both programs and checks that nothing of the workstation crept in.
///
/// # Errors
/// When a build fails or a program needs something from outside itself.
pub fn build() -> Result<Programs> {
    cargo("build", "hypervisor", &[])?;
    cargo("build", "appliance", &["--bin", "dom0"])?;
    let directory = workspace().join("target/bare").join(TARGET).join("release");
    let programs = Programs { hypervisor: directory.join("hypervisor"), dom0: directory.join("dom0") };
    for program in [&programs.hypervisor, &programs.dom0] {
        check_freestanding(program)?;
    }
    let ring0 = std::fs::read(&programs.hypervisor)?;
    crate::speculation::check(&ring0).context("ring 0 does not keep a guest's predictions out")?;
    Ok(programs)
}

/// No dynamic section, no interpreter, no undefined symbol: a library that links
/// the C library by accident is caught here.
fn check_freestanding(program: &Path) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let file = object::File::parse(bytes.as_slice())?;
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        ensure!(name != ".dynamic" && name != ".interp", "{}: has {name}", program.display());
    }
    for symbol in file.symbols().filter(|symbol| symbol.is_undefined()) {
        let name = symbol.name().unwrap_or_default();
        ensure!(name.is_empty(), "{}: {name} is undefined", program.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn measured_binaries_are_of_the_same_code() {
        let flags = super::code_flags();
        assert!(
            flags.starts_with("-C no-redzone=yes -C force-frame-pointers=yes --cfg curve25519"),
            "{flags}"
        );
        assert!(flags.contains("sha2_backend=\"soft\"") && !flags.contains("panic"), "{flags}");
        assert!(!flags.contains("getrandom"), "{flags}");
    }
}
