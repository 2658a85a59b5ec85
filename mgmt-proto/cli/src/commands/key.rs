//! `redoubt key`.

use super::bundle;
use crate::arguments::{Global, Key};
use keys::{Existing, KeyError, PublicKey};
use mgmt_proto::code::Failure;
use mgmt_proto::handshake::OperatorKey;
use redoubt::agent::{self, Identity};
use redoubt::answer::{Answer, Text};
use redoubt::exit;
use redoubt::json::Done;
use redoubt::settings::{self, Settings};
use redoubt::table::Table;
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

#[derive(Serialize)]
struct Found {
    name: String,
    source: String,
    public_key: String,
    fingerprint: String,
}

impl Found {
    fn new(source: &str, key: &PublicKey) -> Self {
        Self {
            name: key.comment.clone(),
            source: source.into(),
            public_key: key.to_string(),
            fingerprint: key.fingerprint(),
        }
    }
}

pub(crate) fn run(global: &Global, verb: &Key) -> Result<Answer, Failure> {
    match verb {
        Key::Init { dir, encrypt } => init(&dir.clone().unwrap_or_else(settings::directory), *encrypt),
        Key::Encrypt { key } => encrypt(key),
        Key::List => list(),
        Key::Show => show(global),
        Key::Add(options) => bundle::add(options),
        Key::Rotate { file, who, key, overlap_days } => bundle::rotate(file, who, key, *overlap_days),
        Key::Revoke { file, who } => bundle::revoke(file, who),
        Key::Bundle(verb) => bundle::offline(global, verb),
    }
}

/// Every public key at hand.
fn list() -> Result<Answer, Failure> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(settings::directory()).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "pub")) {
        let key = PublicKey::load(path).map_err(|error| exit::key(&error))?;
        found.push(Found::new(&path.display().to_string(), &key));
    }
    if let Ok(socket) = agent::socket() {
        for key in agent::list(&socket)? {
            found.push(Found::new("agent", &PublicKey { bytes: key.public, comment: key.comment }));
        }
    }
    let mut table = Table::new(&["Name", "Fingerprint", "Source"]);
    for key in &found {
        table.push(vec![key.name.clone(), key.fingerprint.clone(), key.source.clone()]);
    }
    let names = found.iter().map(|key| key.fingerprint.clone()).collect();
    Ok(Answer::table(&found, names, table))
}

/// The key that commands are signed with.
fn show(global: &Global) -> Result<Answer, Failure> {
    let directory = settings::directory();
    let context = Settings::load(&directory.join("config.toml"))?.context(global.context.as_deref())?;
    let path = global.identity.clone().or(context.identity);
    let path = path.unwrap_or_else(|| directory.join("operator.key"));
    let (bytes, comment) = match Identity::open(&path)? {
        Identity::Agent(key) => (key.public, key.comment),
        Identity::File(key) => {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (key.public(), name)
        }
    };
    let key = PublicKey { bytes, comment };
    let found = Found::new(&path.display().to_string(), &key);
    Ok(Answer::lines(&found, &found.fingerprint, format!("{key}\n")))
}

/// Writes a key again, under a passphrase.
fn encrypt(path: &Path) -> Result<Answer, Failure> {
    let key = keys::secret::load(path).map_err(|error| exit::key(&error))?;
    eprintln!("now the new passphrase");
    let passphrase = keys::passphrase::choose(path).map_err(|error| exit::key(&error))?;
    keys::secret::save_encrypted(path, &key, &passphrase, Existing::Replace)
        .map_err(|error| exit::key(&error))?;
    log::info!("the disk may still hold the bytes of the old file");
    let done = Done { object: path.display().to_string(), verb: "key encrypt", status: "done", id: None };
    Ok(Answer::done(&done))
}

fn init(directory: &Path, is_encrypted: bool) -> Result<Answer, Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| exit::file(directory, &error))?;
    // All or nothing: look first.
    for name in ["owner", "operator"] {
        for path in paths(directory, name) {
            if path.symlink_metadata().is_ok() {
                return Err(exit::key(&KeyError::Exists(path)));
            }
        }
    }
    let passphrase = is_encrypted.then(|| keys::passphrase::choose(&directory.join("owner.key")));
    let passphrase = passphrase.transpose().map_err(|error| exit::key(&error))?;
    let passphrase = passphrase.as_ref().map(|text| text.as_str());
    let made = [make(directory, "owner", passphrase)?, make(directory, "operator", passphrase)?];
    log::info!("keep owner.key offline; put operator.key.pub into node.toml and seal an image:");
    log::info!("image-builder seal --image IN --out OUT --owner owner.key node.toml");
    let names = made.iter().map(|key| key.path.clone()).collect();
    let lines = made.iter().map(|key| format!("{}  {}\n", key.path, key.fingerprint)).collect();
    Ok(Answer::new(&made, names, Text::Lines(lines)))
}

fn paths(directory: &Path, name: &str) -> [PathBuf; 2] {
    [directory.join(format!("{name}.key")), directory.join(format!("{name}.key.pub"))]
}

fn make(directory: &Path, name: &'static str, passphrase: Option<&str>) -> Result<Made, Failure> {
    let [path, public_path] = paths(directory, name);
    let key = keys::secret::generate().map_err(|error| exit::key(&error))?;
    let public = PublicKey::of(&key, name);
    let saved = match passphrase {
        Some(passphrase) => keys::secret::save_encrypted(&path, &key, passphrase, Existing::Keep),
        None => keys::secret::save(&path, &key, Existing::Keep),
    };
    saved.map_err(|error| exit::key(&error))?;
    public.save(&public_path, Existing::Keep).map_err(|error| exit::key(&error))?;
    Ok(Made {
        name,
        path: path.display().to_string(),
        public_path: public_path.display().to_string(),
        public_key: public.to_string(),
        fingerprint: public.fingerprint(),
    })
}
