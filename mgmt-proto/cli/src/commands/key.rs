//! `redoubt key`.

use crate::arguments::Key;
use keys::{Existing, KeyError, PublicKey};
use mgmt_proto::code::Failure;
use redoubt::answer::{Answer, Text};
use redoubt::{exit, settings};
use serde::Serialize;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Made {
    name: &'static str,
    path: String,
    public_path: String,
    public_key: String,
    fingerprint: String,
}

pub(crate) fn run(verb: &Key) -> Result<Answer, Failure> {
    let Key::Init { dir } = verb;
    let directory = dir.clone().unwrap_or_else(settings::directory);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| exit::file(&directory, &error))?;
    // All or nothing: look first.
    for name in ["owner", "operator"] {
        for path in paths(&directory, name) {
            if path.symlink_metadata().is_ok() {
                return Err(exit::key(&KeyError::Exists(path)));
            }
        }
    }
    let made = [make(&directory, "owner")?, make(&directory, "operator")?];
    eprintln!("note: keep owner.key offline; put operator.key.pub into node.toml and seal an image:");
    eprintln!("      image-builder seal --image IN --out OUT --owner owner.key node.toml");
    let names = made.iter().map(|key| key.path.clone()).collect();
    let lines = made.iter().map(|key| format!("{}  {}\n", key.path, key.fingerprint)).collect();
    Ok(Answer::new(&made, names, Text::Lines(lines)))
}

fn paths(directory: &Path, name: &str) -> [PathBuf; 2] {
    [directory.join(format!("{name}.key")), directory.join(format!("{name}.key.pub"))]
}

fn make(directory: &Path, name: &'static str) -> Result<Made, Failure> {
    let [path, public_path] = paths(directory, name);
    let key = keys::secret::generate().map_err(|error| exit::key(&error))?;
    let public = PublicKey::of(&key, name);
    keys::secret::save(&path, &key, Existing::Keep).map_err(|error| exit::key(&error))?;
    public.save(&public_path, Existing::Keep).map_err(|error| exit::key(&error))?;
    Ok(Made {
        name,
        path: path.display().to_string(),
        public_path: public_path.display().to_string(),
        public_key: public.to_string(),
        fingerprint: public.fingerprint(),
    })
}
