//! Verifies that a file is exactly what its owner sealed: no bit of it can differ.
//!
//! Signed: the payload up to the signature. What follows the signature must be
//! zero, and what precedes the payload must equal the signed copy of it.

use anyhow::{Context, Result, anyhow, bail, ensure};
use hv_abi::image::{
    Image, ImageError, MAX_FILE_BYTES, PART_DOM0, PART_HYPERVISOR, PART_MANIFEST, PART_SETUP, PART_SIGNATURE,
    SETUP_BYTES,
};
use mgmt_proto::manifest::{Manifest, sealed_by};
use sha2::{Digest, Sha256};

/// What was found in an intact file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// SHA-256 of the whole file, as `node info` reports it.
    pub sha256: [u8; 32],
    /// Bytes of the whole file.
    pub bytes: usize,
    /// Owner, operators and settings.
    pub manifest: Manifest,
    /// Kind, bytes in the file and bytes in memory of each part.
    pub parts: Vec<(u32, u64, u64)>,
}

/// Name of a kind of part.
#[must_use]
pub const fn part_name(kind: u32) -> &'static str {
    match kind {
        PART_HYPERVISOR => "hypervisor",
        PART_DOM0 => "dom0",
        PART_SETUP => "setup",
        PART_MANIFEST => "manifest",
        PART_SIGNATURE => "signature",
        _ => "unknown",
    }
}

/// Checks everything but the signature.
///
/// # Errors
/// Names what does not hold.
pub fn check_structure(file: &[u8]) -> Result<Image<'_>> {
    ensure!(file.len() <= MAX_FILE_BYTES, "the file has {} bytes, more than a node accepts", file.len());
    let (setup, payload) =
        file.split_at_checked(SETUP_BYTES).context("not an image: the file is too short")?;
    let image = Image::parse(payload).map_err(|error| match error {
        ImageError::NotAnImage => anyhow!("not an image, or its directory is damaged"),
        ImageError::Directory | ImageError::Missing(_) => {
            anyhow!("the directory does not describe this file: it is damaged or cut off")
        }
    })?;
    ensure!(
        image.payload().len() == payload.len(),
        "{} bytes follow the image",
        payload.len() - image.payload().len()
    );
    let mut seen = Vec::new();
    for part in image.parts() {
        let name = part_name(part.kind);
        ensure!(!seen.contains(&part.kind), "there are two parts {name} ({})", part.kind);
        seen.push(part.kind);
        let (_, bytes) = image.part(part.kind).map_err(|_| anyhow!("part {name} is damaged"))?;
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let expected = if part.kind == PART_SIGNATURE { [0; 32] } else { digest };
        ensure!(part.sha256 == expected, "part {name} ({}) is damaged: its digest does not fit", part.kind);
    }
    for kind in [PART_HYPERVISOR, PART_DOM0, PART_SETUP] {
        ensure!(seen.contains(&kind), "part {} is missing", part_name(kind));
    }
    let (_, copy) = image.part(PART_SETUP).map_err(|_| anyhow!("part setup is damaged"))?;
    if let Some(offset) = setup.iter().zip(copy).position(|(left, right)| left != right) {
        bail!("the setup code differs from its signed copy at offset {offset}");
    }
    ensure!(copy.len() == setup.len(), "the signed copy of the setup code has {} bytes", copy.len());
    Ok(image)
}

/// Checks everything. With `owner`, the file must be sealed by that key.
///
/// # Errors
/// Names what does not hold.
pub fn verify(file: &[u8], owner: Option<&[u8; 32]>) -> Result<Report> {
    let image = check_structure(file)?;
    let missing = || anyhow!("the image was never sealed by an owner");
    let (_, manifest) = image.part(PART_MANIFEST).map_err(|_| missing())?;
    let (part, seal) = image.part(PART_SIGNATURE).map_err(|_| missing())?;
    ensure!(
        image.parts().last().is_some_and(|last| last.kind == PART_SIGNATURE),
        "a part follows the signature"
    );
    let signed = image.signed_payload().map_err(|_| missing())?;
    let signed_file = file.get(..SETUP_BYTES + signed.len()).ok_or_else(missing)?;
    let digest: [u8; 32] = Sha256::digest(signed_file).into();
    let sealed_by = sealed_by(seal, &digest);
    let sealed_by = sealed_by.context("the owner's signature does not fit: the image was altered")?;
    let manifest = Manifest::decode(manifest).context("the manifest cannot be read")?;
    ensure!(manifest.owner == sealed_by, "the image was signed by another key than its owner's");
    let end = signed.len() + usize::try_from(part.length)?;
    let padding = image.payload().get(end..).unwrap_or_default();
    ensure!(padding.iter().all(|byte| *byte == 0), "something is hidden after the signature");
    if let Some(owner) = owner {
        ensure!(
            manifest.owner == *owner,
            "the image is intact, but sealed by {} and not by {}",
            keys::public::fingerprint(&manifest.owner),
            keys::public::fingerprint(owner)
        );
    }
    Ok(Report {
        sha256: Sha256::digest(file).into(),
        bytes: file.len(),
        manifest,
        parts: image.parts().map(|part| (part.kind, part.length, part.memory_length)).collect(),
    })
}
