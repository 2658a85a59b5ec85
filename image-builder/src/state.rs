//! The state volume, as an owner writes it.
//!
//! ```toml
//! state = "aoe:e9.0"         # or iscsi://[user@]portal/iqn/lun, virtio:0
//! state = { volume = "iscsi://node7@10.0.0.1/iqn.2026-11.example:state/1",
//!           secret_file = "state.secret", reserve = true, wait_s = 60, initialise = "never" }
//! ```

use anyhow::{Context, Result, ensure};
use ed25519_dalek::{Signer, SigningKey};
use mgmt_proto::disk::{self, DiskSetting};
use mgmt_proto::limits::VOLUME_BYTES;
use mgmt_proto::machine::Disk;
use mgmt_proto::secret::Secret;
use mgmt_proto::state::{Initialise, StateVolume, WAIT_S};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;

const KEY_LABEL: &[u8] = b"redoubt state key 1";

/// The volume on which the node persists its state.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "state is a volume as \"aoe:e9.0\", or { volume = \"aoe:e9.0\", wait_s = 30 }")]
pub enum State {
    /// Its name.
    Name(String),
    /// Its name and what is set for it.
    Volume(Volume),
}

/// A volume and what is set for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub volume: String,
    /// How long the node waits for it before it takes connections without; 0 is for
    /// ever.
    #[serde(default = "default_wait")]
    pub wait_s: u32,
    /// File of the secret of the user in its name (CHAP), relative to the settings' own.
    pub secret_file: Option<String>,
    /// What the node does with an empty one: "empty" formats it, "never" refuses it.
    #[serde(default)]
    pub initialise: Initialise,
    /// No other node may write to it, where the target can see to that.
    #[serde(default)]
    pub reserve: bool,
}

const fn default_wait() -> u32 {
    WAIT_S
}

impl State {
    /// What is sealed, still without a key. Files are relative to `directory`.
    ///
    /// # Errors
    /// Names what makes no sense.
    pub fn checked(&self, directory: &Path) -> Result<StateVolume> {
        let written = match self {
            Self::Name(volume) => Volume {
                volume: volume.clone(),
                wait_s: WAIT_S,
                secret_file: None,
                initialise: Initialise::Empty,
                reserve: false,
            },
            Self::Volume(written) => written.clone(),
        };
        let local = written.volume.strip_prefix("virtio:").map(|number| number.parse::<u8>().is_ok());
        let network = ["aoe:e", "iscsi://"].iter().any(|scheme| written.volume.starts_with(scheme));
        ensure!(
            local.unwrap_or(network) && written.volume.len() <= VOLUME_BYTES,
            "state: {:?} is no volume; write aoe:e9.0, iscsi://portal/iqn/lun or virtio:0",
            written.volume
        );
        let mut settings = Vec::new();
        if written.reserve {
            settings.push(DiskSetting::Reserve);
        }
        if let Some(file) = &written.secret_file {
            let path = directory.join(keys::file::expand_home(file));
            let text =
                std::fs::read(&path).with_context(|| format!("state: cannot read {}", path.display()))?;
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            settings.push(DiskSetting::Secret(Secret::new(text.to_vec())));
        }
        ensure!(
            local.is_none() || settings.is_empty(),
            "state: nothing can be set for the machine's own disk"
        );
        disk::validate(&Disk { volume: written.volume.clone(), read_only: false }, &settings)
            .map_err(|failure| anyhow::anyhow!("state: {failure}"))?;
        Ok(StateVolume {
            volume: written.volume,
            settings,
            initialise: written.initialise,
            wait_s: written.wait_s,
            key: Secret::new(Vec::new()),
        })
    }
}

/// The key of a node's state: the same whenever this owner seals this name, so that a
/// new image reads what the old one persisted, and unknown without the root key
/// or an image.
#[must_use]
pub fn key(owner: &SigningKey, node: &str) -> Secret {
    let signature = owner.sign(&[KEY_LABEL, b" ", node.as_bytes()].concat()).to_bytes();
    Secret::new(Sha256::new().chain_update(KEY_LABEL).chain_update(signature).finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StateVolume> {
        #[derive(Deserialize)]
        struct File {
            state: State,
        }
        toml::from_str::<File>(text)?.state.checked(Path::new("/nowhere"))
    }

    #[test]
    fn a_state_volume_is_read() {
        let state = parse("state = \"aoe:e9.0\"").unwrap();
        assert_eq!((state.volume.as_str(), state.wait_s, state.settings.len()), ("aoe:e9.0", 30, 0));
        let state = parse("state = { volume = \"virtio:0\", wait_s = 0 }").unwrap();
        assert_eq!((state.volume.as_str(), state.wait_s), ("virtio:0", 0));
        let state = parse("state = { volume = \"iscsi://10.0.0.1/iqn.a:b/1\", reserve = true }").unwrap();
        assert_eq!(state.settings, [DiskSetting::Reserve]);
        assert_eq!(state.initialise, Initialise::Empty);
        let state = parse("state = { volume = \"virtio:0\", initialise = \"never\" }").unwrap();
        assert_eq!(state.initialise, Initialise::Never);
        for (text, error) in [
            ("state = \"nfs:/x\"", "no volume"),
            ("state = \"virtio:first\"", "no volume"),
            ("state = { volume = \"virtio:0\", reserve = true }", "nothing can be set"),
            ("state = { volume = \"aoe:e9.0\", secret_file = \"s\" }", "cannot read"),
            ("state = 9", "state is a volume"),
        ] {
            let found = format!("{:#}", parse(text).unwrap_err());
            assert!(found.contains(error), "{text}: {found}");
        }
    }

    #[test]
    fn a_key_belongs_to_an_owner_and_a_name() {
        let owner = |byte| SigningKey::from_bytes(&[byte; 32]);
        assert!(key(&owner(1), "a") == key(&owner(1), "a"));
        assert!(key(&owner(1), "a") != key(&owner(1), "b"));
        assert!(key(&owner(1), "a") != key(&owner(2), "a"));
        assert_eq!(key(&owner(1), "a").length(), 32);
    }
}
