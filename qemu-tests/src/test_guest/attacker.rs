//! A guest that claims by raw frames what is not its own.

use super::{Flavour, MODULES, Recipe, TestGuest, compose};
use crate::process::run;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

const SOURCE: &str = include_str!("attacker.c");

/// The guest's kernel and initramfs: a test guest's, and the program.
///
/// # Errors
/// When they cannot be made.
pub fn guest(target: &Path) -> Result<TestGuest> {
    let directory = target.join("attacker");
    std::fs::create_dir_all(&directory)?;
    let (source, program) = (directory.join("attacker.c"), directory.join("attacker"));
    std::fs::write(&source, SOURCE)?;
    let build = ["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"];
    run(Command::new("cc").args(build).args([&program, &source])).context("cannot build the attacker")?;
    let bytes = std::fs::read(&program).with_context(|| program.display().to_string())?;
    let files = vec![("bin/attacker".to_string(), bytes)];
    let recipe = Recipe { modules: &MODULES, files, ..Recipe::default() };
    compose(target, Flavour::Cloud, &recipe, target.join("kernels/attacker.cpio"))
}
