//! Placeholder.
fn main() -> anyhow::Result<()> {
    qemu_tests::packages::ensure_installed()?;
    let d = qemu_tests::debian::ensure(&qemu_tests::programs::target())?;
    println!("{d:?}");
    Ok(())
}
