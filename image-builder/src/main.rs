//! `cargo image`: builds the one file.

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let programs = image_builder::programs::build()?;
    let hypervisor = std::fs::read(&programs.hypervisor)?;
    let dom0 = std::fs::read(&programs.dom0)?;
    let file = image_builder::compose::compose(&hypervisor, &dom0, &[])?;
    let target = image_builder::programs::workspace().join("target/image");
    std::fs::create_dir_all(&target)?;
    let path = target.join("redoubt.img");
    std::fs::write(&path, &file).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {} bytes", path.display(), file.len());
    Ok(())
}
