//! Adds the owner's manifest and signature.
//!
//! The signature, with the owner's key before it, is the last part and covers the payload before it: stub,
//! directory, every other part and the padding between them. The directory is
//! therefore final before anything is signed.

use crate::compose::{Pieces, compose};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use hv_abi::image::{Image, PART_MANIFEST, PART_SIGNATURE, SETUP_BYTES};
use mgmt_proto::manifest::{self, Manifest, SEAL_BYTES};
use sha2::{Digest, Sha256};

/// Composes the pieces and seals them.
///
/// # Errors
/// When the manifest names another owner or the file cannot be composed.
pub fn seal(pieces: &Pieces, manifest: &Manifest, owner: &SigningKey) -> Result<Vec<u8>> {
    ensure!(
        manifest.owner == owner.verifying_key().to_bytes(),
        "the settings name another owner than the key that signs"
    );
    let mut manifest = manifest.clone();
    if let Some(state) = &mut manifest.state {
        state.key = crate::state::key(owner, &manifest.name);
    }
    let encoded = manifest.encode().context("the settings are too long")?;
    ensure!(Manifest::decode(&encoded).is_some(), "the node would not read these settings");
    let mut file = compose(pieces, &[(PART_MANIFEST, encoded), (PART_SIGNATURE, vec![0; SEAL_BYTES])])?;
    let payload = file.get(SETUP_BYTES..).context("no payload")?;
    let image = Image::parse(payload).ok().context("the composed file is not an image")?;
    let signed = image.signed_payload().ok().context("no place for a signature")?;
    // The file as it is, up to the signature: the node hashes it once for both the
    // signature and its own digest.
    let end = SETUP_BYTES + signed.len();
    let digest: [u8; 32] = Sha256::digest(file.get(..end).context("no payload")?).into();
    let seal = manifest::seal(owner, &digest);
    file.get_mut(end..end + SEAL_BYTES).context("no place for a signature")?.copy_from_slice(&seal);
    Ok(file)
}

/// Seals an existing file anew: another owner, other settings, the same programs.
/// A file that was sealed before must be intact.
///
/// # Errors
/// When the file is damaged, and as [`seal`].
pub fn reseal(file: &[u8], manifest: &Manifest, owner: &SigningKey) -> Result<Vec<u8>> {
    crate::verify::check_structure(file)?;
    let sealed = file
        .get(SETUP_BYTES..)
        .and_then(|payload| Image::parse(payload).ok())
        .is_some_and(|image| image.part(PART_SIGNATURE).is_ok());
    if sealed {
        crate::verify::verify(file, None)?;
    }
    seal(&Pieces::from_image(file)?, manifest, owner)
}
