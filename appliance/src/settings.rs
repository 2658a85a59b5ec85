//! How the node was sealed, and who it is.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use hv_abi::STORE_BYTES;
use hv_abi::image::{Image, PART_MANIFEST, PART_SETUP, PART_SIGNATURE};
use mgmt_proto::manifest::{self, Manifest};
use mgmt_proto::node_key::{self, KeyLink};
use mgmt_proto::server::Identity;
use netstack::host::Addressing;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::hypervisor::Hypervisor;
use crate::state::OwnFlags;

/// Where what is the node's own is kept across dom0's restart: behind all domains.
const OWN_STORE: usize = hv_abi::MAX_DOMAINS;

/// What the image and the boot say about this node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the owner sealed.
    pub manifest: Manifest,
    /// SHA-256 of the file the node runs from.
    pub image_sha256: [u8; 32],
    /// Bytes of that file.
    pub image_bytes: u64,
    /// Which start of dom0 this is.
    pub dom0_starts: u32,
}

/// Why an image is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFault {
    /// The directory is damaged.
    Damaged,
    /// A part's digest is not what the directory says.
    Part(u32),
    /// It was never sealed: it has no manifest or no signature.
    Unsealed,
    /// The manifest cannot be read.
    Manifest,
    /// The owner's signature does not fit.
    Signature,
    /// The manifest names another owner than the key that signed.
    Owner,
}

impl core::fmt::Display for ImageFault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Damaged => formatter.write_str("the image is damaged"),
            Self::Part(kind) => write!(formatter, "part {kind} of the image is damaged"),
            Self::Unsealed => formatter.write_str("the image was never sealed by an owner"),
            Self::Manifest => formatter.write_str("the image's manifest cannot be read"),
            Self::Signature => formatter.write_str("the owner's signature does not fit the image"),
            Self::Owner => formatter.write_str("the image was signed by another key than its owner's"),
        }
    }
}

/// The part that is damaged, or `otherwise` if all are as the directory says.
fn damage(image: &Image<'_>, otherwise: ImageFault) -> ImageFault {
    let damaged = image.parts().filter(|part| part.kind != PART_SIGNATURE).find(|part| {
        image.part(part.kind).is_ok_and(|(_, bytes)| {
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            digest != part.sha256
        })
    });
    damaged.map_or(otherwise, |part| ImageFault::Part(part.kind))
}

/// How a card gets its address, as its stack wants to hear it.
pub(crate) fn addressing_of(addressing: manifest::Addressing) -> Addressing {
    match addressing {
        manifest::Addressing::Dhcp => Addressing::Dhcp,
        manifest::Addressing::Static { address, prefix, gateway } => {
            Addressing::Static { address: address.into(), prefix, gateway: gateway.map(Into::into) }
        }
    }
}

impl Settings {
    /// Verifies an image, and then reads its manifest. The owner's signature covers the
    /// whole file up to itself; the digests of the parts only tell which one is
    /// damaged when it does not fit.
    ///
    /// # Errors
    /// Why the image is not obeyed.
    pub fn from_image(payload: &[u8], dom0_starts: u32) -> Result<Self, ImageFault> {
        let image = Image::parse(payload).map_err(|_| ImageFault::Damaged)?;
        let (_, manifest) = image.part(PART_MANIFEST).map_err(|_| ImageFault::Unsealed)?;
        let (_, seal) = image.part(PART_SIGNATURE).map_err(|_| ImageFault::Unsealed)?;
        let (_, setup) = image.part(PART_SETUP).map_err(|_| ImageFault::Damaged)?;
        let signed = image.signed_payload().map_err(|_| ImageFault::Damaged)?;
        let rest = image.payload().get(signed.len()..).ok_or(ImageFault::Damaged)?;
        // One pass over a megabyte for both digests: it is most of a node's start.
        let hasher = Sha256::new().chain_update(setup).chain_update(signed);
        let digest: [u8; 32] = hasher.clone().finalize().into();
        let whole = hasher.chain_update(rest).finalize();
        let owner = manifest::sealed_by(seal, &digest);
        let owner = owner.ok_or_else(|| damage(&image, ImageFault::Signature))?;
        let manifest = Manifest::decode(manifest).ok_or(ImageFault::Manifest)?;
        if manifest.owner != owner {
            return Err(ImageFault::Owner);
        }
        Ok(Self {
            manifest,
            image_sha256: whole.into(),
            image_bytes: (setup.len() + image.payload().len()) as u64,
            dom0_starts,
        })
    }

    /// The node's identity. It is made at each power-on, and `node info` says so,
    /// unless a state volume has it; a restarted dom0 is still the same node, in
    /// another boot as far as commands are concerned. With it what an earlier dom0
    /// left: nothing before its door was open, for the volume may have another key.
    pub(crate) fn identity<H: Hypervisor>(
        &self,
        hypervisor: &mut H,
    ) -> (Identity, Option<OwnFlags>, Vec<KeyLink>) {
        let (mut record, mut key, mut boot_nonce) = (vec![0; STORE_BYTES], [0; 32], [0; 32]);
        let mut links = Vec::new();
        let length = hypervisor.store_get(OWN_STORE, &mut record).unwrap_or(0);
        let kept = record.get(..length).and_then(|record| record.split_first_chunk::<32>());
        let own = match kept {
            Some((kept, [flags, rest @ ..])) => {
                key = *kept;
                links = node_key::decode(rest).unwrap_or_default();
                Some(OwnFlags::from_byte(*flags))
            }
            _ => {
                hypervisor.random(&mut key);
                None
            }
        };
        hypervisor.random(&mut boot_nonce);
        let identity = Identity {
            key: SigningKey::from_bytes(&key),
            boot_nonce,
            name: self.manifest.name.clone(),
            manifest: Sha256::digest(self.manifest.encode().unwrap_or_default()).into(),
            former: links.iter().map(|link| link.from).collect(),
        };
        record.zeroize();
        key.zeroize();
        (identity, own, links)
    }

    /// The node's iSCSI name (RFC 7143, 4.2.7.5: type `eui.` would need a
    /// registered number; `iqn.` with the project's own domain does not).
    #[must_use]
    pub fn initiator_name(&self, mac: [u8; 6]) -> String {
        let [a, b, c, d, e, f] = mac;
        format!("iqn.2026-11.invalid.redoubt:{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageFault, Settings};
    use alloc::vec;
    use alloc::vec::Vec;
    use ed25519_dalek::SigningKey;
    use hv_abi::image::{
        DIRECTORY_OFFSET, Directory, MAGIC, MAX_PARTS, PART_ALIGN, PART_MANIFEST, PART_SETUP, PART_SIGNATURE,
        Part,
    };
    use mgmt_proto::manifest::{self, Manifest};
    use sha2::{Digest as _, Sha256};
    use zerocopy::IntoBytes as _;

    pub(crate) fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    /// A payload with this for a manifest, sealed by a key.
    fn image(manifest: &[u8], owner: &SigningKey) -> Vec<u8> {
        let setup = vec![7; PART_ALIGN];
        let seal = vec![0; manifest::SEAL_BYTES];
        let bodies = [(PART_SETUP, &setup[..]), (PART_MANIFEST, manifest), (PART_SIGNATURE, &seal)];
        let mut parts = [Part::default(); MAX_PARTS];
        let mut payload = vec![0; DIRECTORY_OFFSET + PART_ALIGN];
        for (part, (kind, body)) in parts.iter_mut().zip(bodies) {
            let (offset, length) = (payload.len() as u64, body.len() as u64);
            let sha256 = if kind == PART_SIGNATURE { [0; 32] } else { Sha256::digest(body).into() };
            *part = Part { kind, reserved: 0, offset, length, memory_length: length, sha256 };
            payload.extend_from_slice(body);
            payload.resize(payload.len().next_multiple_of(PART_ALIGN), 0);
        }
        let directory = Directory { magic: MAGIC, payload_length: payload.len() as u64, parts };
        let bytes = directory.as_bytes();
        payload[DIRECTORY_OFFSET..DIRECTORY_OFFSET + bytes.len()].copy_from_slice(bytes);
        let end = payload.len() - PART_ALIGN;
        let digest: [u8; 32] =
            Sha256::new().chain_update(&setup).chain_update(&payload[..end]).finalize().into();
        payload[end..end + manifest::SEAL_BYTES].copy_from_slice(&manifest::seal(owner, &digest));
        payload
    }

    fn settings(owner: &SigningKey) -> Vec<u8> {
        let sealed = crate::node::tests::sealed();
        Manifest { owner: owner.verifying_key().to_bytes(), ..sealed }.encode().unwrap()
    }

    #[test]
    fn nothing_is_read_that_the_owner_did_not_sign() {
        let good = image(&settings(&key(1)), &key(1));
        let read = Settings::from_image(&good, 3).unwrap();
        assert_eq!((read.manifest.owner, read.dom0_starts), (key(1).verifying_key().to_bytes(), 3));
        let fault = |payload: &[u8]| Settings::from_image(payload, 1).unwrap_err();
        // What is signed is read; what is not, whatever it is, is not.
        let mut nonsense = image(b"no manifest", &key(1));
        assert_eq!(fault(&nonsense), ImageFault::Manifest);
        let end = nonsense.len() - PART_ALIGN;
        for at in [end, end + 32, end + 95] {
            nonsense[at] ^= 1;
            assert_eq!(fault(&nonsense), ImageFault::Signature, "octet {at} of the seal");
            nonsense[at] ^= 1;
        }
        // A key that signs its own name is not the owner's.
        assert_eq!(fault(&image(&settings(&key(1)), &key(2))), ImageFault::Owner);
        // No bit of what is signed can be another.
        for at in (0..good.len() - PART_ALIGN).step_by(97) {
            let mut altered = good.clone();
            altered[at] ^= 0x10;
            assert!(Settings::from_image(&altered, 1).is_err(), "octet {at}");
        }
        let mut damaged = good;
        damaged[DIRECTORY_OFFSET + PART_ALIGN + PART_ALIGN + 3] ^= 1;
        assert_eq!(fault(&damaged), ImageFault::Part(PART_MANIFEST));
    }
}
