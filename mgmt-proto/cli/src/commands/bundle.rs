//! `redoubt key bundle`, and what edits a trust file.

use crate::arguments::{AddKey, Bundle as Verb, Global};
use crate::scope::Scope;
use keys::{Existing, PublicKey};
use mgmt_proto::bundle::{self, Bundle, Refused};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::OperatorKey as _;
use mgmt_proto::verb::{Reply, Request};
use redoubt::agent::Identity;
use redoubt::answer::{Answer, Text};
use redoubt::json::Done;
use redoubt::table::Table;
use redoubt::trust_file::{Operator, TrustFile, seconds, time};
use redoubt::{Connection, exit};
use serde::Serialize;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `key bundle show` prints.
#[derive(Serialize)]
struct Shown {
    serial: u64,
    issued: Option<String>,
    threshold: u8,
    roots: Vec<Root>,
    operators: Vec<Grant>,
    revoked: Vec<String>,
}

#[derive(Serialize)]
struct Root {
    key: String,
    fingerprint: String,
    /// Whether it signed this file.
    signed: Option<bool>,
}

#[derive(Serialize)]
struct Grant {
    name: String,
    key: String,
    fingerprint: String,
    role: String,
    nodes: Option<Vec<String>>,
    guests: Option<Vec<String>>,
    from: Option<String>,
    until: Option<String>,
}

/// What the node holds.
fn holds(connection: &mut Connection) -> Result<Bundle, Failure> {
    match connection.request(Request::TrustShow)? {
        Reply::Trust(bundle) => Ok(bundle),
        _ => Err(connection.unexpected()),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn refused(path: &Path, refused: Refused) -> Failure {
    let message = format!("{refused}");
    Failure::new(
        Code::Integrity,
        path.display().to_string(),
        message,
        "make it with `redoubt key bundle make`",
    )
}

/// A bundle of a file with its signatures, none of which is verified.
fn load(path: &Path) -> Result<(Vec<u8>, Vec<bundle::Signed>), Failure> {
    let bytes = std::fs::read(path).map_err(|error| exit::file(path, &error))?;
    let (bundle, signatures) = bundle::split(&bytes).map_err(|error| refused(path, error))?;
    Ok((bundle.to_vec(), signatures))
}

fn save(
    path: &Path,
    bundle: &[u8],
    signatures: &[bundle::Signed],
    existing: Existing,
) -> Result<(), Failure> {
    let bytes = bundle::assemble(bundle, signatures).map_err(|error| refused(path, error))?;
    keys::file::write(path, &bytes, 0o644, existing).map_err(|error| exit::key(&error))
}

fn done(path: &Path, verb: &'static str, status: &'static str) -> Answer {
    Answer::done(&Done { object: path.display().to_string(), verb, status, id: None })
}

/// What needs no node.
pub(crate) fn offline(global: &Global, verb: &Verb) -> Result<Answer, Failure> {
    match verb {
        Verb::Make { file, out } => make(file, out),
        Verb::Sign { bundle } => sign(global, bundle),
        Verb::Show { file: Some(path) } => {
            let (bytes, signatures) = load(path)?;
            let bundle = Bundle::decode(&bytes).map_err(|error| refused(path, error))?;
            Ok(shown(&bundle, Some((&bytes, &signatures))))
        }
        Verb::Show { file: None } | Verb::Fetch { .. } | Verb::Push { .. } => {
            Err(exit::usage("", "is for a node", "name it with -n"))
        }
    }
}

/// What needs one.
pub(crate) fn on_node(scope: &Scope<'_>, verb: &Verb) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    match verb {
        Verb::Fetch { out } => {
            let mut file = TrustFile::from_bundle(&holds(&mut connection)?);
            // What is made of it follows what holds.
            file.serial += 1;
            if !scope.dry_run {
                keys::file::write(out, file.to_text().as_bytes(), 0o644, Existing::Keep)
                    .map_err(|error| exit::key(&error))?;
            } else if out.exists() {
                return Err(exit::key(&keys::KeyError::Exists(out.clone())));
            }
            Ok(Answer::done(&scope.done(&out.display().to_string(), "key bundle fetch", "done", None)))
        }
        Verb::Push { bundle } => {
            let signed = std::fs::read(bundle).map_err(|error| exit::file(bundle, &error))?;
            let node = connection.address().to_string();
            if scope.dry_run {
                let current = holds(&mut connection)?;
                current.signed_successor(&signed).map_err(|error| refused(bundle, error))?;
            } else {
                connection.request(Request::TrustUpdate { signed })?;
            }
            Ok(Answer::done(&scope.done(&node, "key bundle push", "done", None)))
        }
        _ => Ok(shown(&holds(&mut connection)?, None)),
    }
}

fn make(file: &Path, out: &Path) -> Result<Answer, Failure> {
    let origin = file.display().to_string();
    let bundle = TrustFile::load(file)?.to_bundle(now_s(), &origin)?;
    let bytes = bundle.encode().ok_or_else(|| refused(file, Refused::Unsound))?;
    save(out, &bytes, &[], Existing::Keep)?;
    log::info!(
        "{} root keys must sign it: redoubt key bundle sign -i ROOT.key {}",
        bundle.threshold,
        out.display()
    );
    Ok(done(out, "key bundle make", "done"))
}

fn sign(global: &Global, path: &Path) -> Result<Answer, Failure> {
    let identity = global.identity.as_deref();
    let identity = identity.ok_or_else(|| exit::usage("-i", "is needed: the root key", "name its file"))?;
    let (bytes, mut signatures) = load(path)?;
    // Nobody signs what cannot be read.
    let bundle = Bundle::decode(&bytes).map_err(|error| refused(path, error))?;
    let key = Identity::open(identity)?;
    let root = key.public();
    let signature = key.sign(&bundle::message(&bytes)).map_err(|_| {
        Failure::new(
            Code::Refused,
            identity.display().to_string(),
            "did not sign",
            "does the agent allow it?",
        )
    })?;
    signatures.retain(|(signer, _)| *signer != root);
    signatures.push((root, signature));
    save(path, &bytes, &signatures, Existing::Replace)?;
    if !bundle.roots.contains(&root) {
        log::info!("this key is no root of the bundle itself; it counts if it is one of those that hold now");
    }
    Ok(done(path, "key bundle sign", "done"))
}

fn shown(bundle: &Bundle, signed: Option<(&[u8], &[bundle::Signed])>) -> Answer {
    let file = TrustFile::from_bundle(bundle);
    let fingerprint = |key: &[u8; 32]| keys::public::fingerprint(key);
    let root = |key: &[u8; 32]| Root {
        key: hex::encode(key),
        fingerprint: fingerprint(key),
        signed: signed.map(|(bytes, signatures)| bundle::has_signed(key, bytes, signatures)),
    };
    let operator = |(grant, text): (&bundle::Grant, Operator)| Grant {
        name: grant.name.clone(),
        key: hex::encode(grant.key),
        fingerprint: fingerprint(&grant.key),
        role: format!("{:?}", grant.role).to_lowercase(),
        nodes: text.nodes,
        guests: text.guests,
        from: text.from,
        until: text.until,
    };
    let shown = Shown {
        serial: bundle.serial,
        issued: time(bundle.issued_s),
        threshold: bundle.threshold,
        roots: bundle.roots.iter().map(root).collect(),
        operators: bundle.grants.iter().zip(file.operators).map(operator).collect(),
        revoked: bundle.revoked.iter().map(hex::encode).collect(),
    };
    let mut table = Table::new(&["Name", "Role", "Nodes", "Guests", "From", "Until", "Fingerprint"]);
    let list =
        |names: &Option<Vec<String>>| names.as_ref().map_or_else(|| "all".into(), |names| names.join(","));
    for grant in &shown.operators {
        let point = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
        table.push(vec![
            grant.name.clone(),
            grant.role.clone(),
            list(&grant.nodes),
            list(&grant.guests),
            point(&grant.from),
            point(&grant.until),
            grant.fingerprint.clone(),
        ]);
    }
    let origin = if shown.serial == 0 { " (sealed into the image)" } else { "" };
    let issued = shown.issued.as_ref().map_or_else(String::new, |issued| format!(", issued {issued}"));
    let mut lines = format!("serial {}{origin}{issued}\n", shown.serial);
    for root in &shown.roots {
        let mark = match root.signed {
            Some(true) => " has signed",
            Some(false) => " has not signed",
            None => "",
        };
        lines += &format!("root {}{mark}\n", root.fingerprint);
    }
    lines += &format!("{} of {} roots must sign the next one\n", shown.threshold, shown.roots.len());
    for key in &bundle.revoked {
        lines += &format!("revoked {}\n", fingerprint(key));
    }
    let names = shown.operators.iter().map(|grant| grant.name.clone()).collect();
    Answer::new(&shown, names, Text::Lines(format!("{lines}{table}")))
}

/// Adds an operator to a trust file.
pub(crate) fn add(options: &AddKey) -> Result<Answer, Failure> {
    let mut file = TrustFile::load(&options.file)?;
    let key = PublicKey::load(&options.key).map_err(|error| exit::key(&error))?;
    for point in options.from.iter().chain(&options.until) {
        seconds(point, "--from, --until")?;
    }
    let names = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
    file.add(Operator {
        name: Some(options.name.clone()),
        key: key.to_string(),
        role: options.role,
        nodes: names(&options.on),
        guests: names(&options.guests),
        from: options.from.clone(),
        until: options.until.clone(),
    })?;
    file.save(&options.file)?;
    Ok(done(&options.file, "key add", "done"))
}

/// Gives an operator of a trust file a new key.
pub(crate) fn rotate(path: &Path, who: &str, new: &Path, overlap_days: u64) -> Result<Answer, Failure> {
    let mut file = TrustFile::load(path)?;
    let new = PublicKey::load(new).map_err(|error| exit::key(&error))?;
    file.rotate(who, &new, now_s().saturating_add(overlap_days.saturating_mul(86_400)))?;
    file.save(path)?;
    Ok(done(path, "key rotate", "done"))
}

/// Revokes a key in a trust file.
pub(crate) fn revoke(path: &Path, who: &str) -> Result<Answer, Failure> {
    let mut file = TrustFile::load(path)?;
    file.revoke(who)?;
    file.save(path)?;
    Ok(done(path, "key revoke", "done"))
}
