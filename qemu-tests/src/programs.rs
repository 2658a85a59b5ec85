//! The project's own programs, built.

use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder for everything that is made.
#[must_use]
pub fn target() -> PathBuf {
    image_builder::programs::workspace().join("target")
}

/// Runs cargo in the workspace.
///
/// # Errors
/// When cargo cannot be run or fails.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(image_builder::programs::workspace())
        .args(arguments)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// Builds the CLI as it is delivered and returns where it is.
///
/// # Errors
/// When the build fails.
pub fn release_cli() -> Result<PathBuf> {
    cargo(&["build", "--quiet", "--release", "--package", "redoubt"])?;
    let directory = std::env::current_exe()?;
    let directory = directory.parent().and_then(Path::parent).context("no build directory")?;
    let path = directory.join("release/redoubt");
    ensure!(path.exists(), "{} was not built", path.display());
    Ok(path)
}

/// Builds a library's tests of the code that the image is made of, and returns where they
/// are.
///
/// # Errors
/// When the build fails.
pub fn optimized_tests(package: &str) -> Result<PathBuf> {
    use image_builder::programs::{code_flags, target as triple, workspace};
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args(["test", "--quiet", "--release", "--lib", "--no-run", "--message-format", "json"])
        .args(["--target", triple(), "--package", package, "--target-dir"])
        .arg(target().join("turns/build"))
        .env("RUSTFLAGS", code_flags())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo test of {package} failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    programs.next().with_context(|| format!("cargo made no tests of {package}"))
}

/// This program's arguments. Cargo's aliases end with `--`, so that another one in
/// front, as in `cargo demo -- --keep`, means nothing.
pub fn arguments() -> impl Iterator<Item = OsString> {
    without_separator(std::env::args_os())
}

fn without_separator(all: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    all.enumerate().filter(|(index, argument)| *index != 1 || argument != "--").map(|(_, argument)| argument)
}

/// Builds the CLI and returns where it is.
///
/// # Errors
/// When the build fails.
pub fn cli() -> Result<PathBuf> {
    cargo(&["build", "--quiet", "--package", "redoubt"])?;
    let directory = std::env::current_exe()?;
    let directory = directory.parent().context("no build directory")?;
    let path = directory.join("redoubt");
    ensure!(Path::new(&path).exists(), "{} was not built", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::without_separator;
    use std::ffi::OsString;

    #[test]
    fn options_may_come_after_a_separator() {
        let given = |words: &[&str]| -> Vec<OsString> {
            without_separator(words.iter().map(OsString::from)).collect()
        };
        assert_eq!(given(&["demo", "--", "--keep"]), ["demo", "--keep"]);
        assert_eq!(given(&["demo", "--keep"]), ["demo", "--keep"]);
        assert_eq!(given(&["demo", "a", "--", "b"]), ["demo", "a", "--", "b"]);
    }
}
