use crate::file::Existing;
use crate::public::fingerprint;
use crate::{KeyError, PublicKey, secret};
use std::fs;
use std::os::unix::fs::PermissionsExt;

// RFC 8032, 7.1, test 1.
const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

#[test]
fn a_key_comes_back_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("owner.key");
    let key = secret::generate().unwrap();
    secret::save(&path, &key, Existing::Keep).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(secret::load(&path).unwrap().to_bytes(), key.to_bytes());
    assert_ne!(secret::generate().unwrap().to_bytes(), key.to_bytes());
    let public = PublicKey::of(&key, "the owner");
    let path = directory.path().join("owner.key.pub");
    public.save(&path, Existing::Keep).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(PublicKey::load(&path).unwrap(), public);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn nothing_is_overwritten_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let (first, second) = (secret::generate().unwrap(), secret::generate().unwrap());
    secret::save(&path, &first, Existing::Keep).unwrap();
    assert!(matches!(secret::save(&path, &second, Existing::Keep), Err(KeyError::Exists(_))));
    assert_eq!(secret::load(&path).unwrap().to_bytes(), first.to_bytes());
    secret::save(&path, &second, Existing::Replace).unwrap();
    assert_eq!(secret::load(&path).unwrap().to_bytes(), second.to_bytes());
}

#[test]
fn an_exposed_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    secret::save(&path, &secret::generate().unwrap(), Existing::Keep).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(secret::load(&path), Err(KeyError::Exposed { .. })), "{mode:o}");
    }
}

#[test]
fn files_of_a_known_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let load = |text: &str| {
        crate::file::write(&path, text.as_bytes(), 0o600, Existing::Replace).unwrap();
        secret::load(&path)
    };
    let key = load(&format!("redoubt-ed25519-secret-v1 {SECRET}\n")).unwrap();
    assert_eq!(PublicKey::of(&key, "").to_string(), format!("redoubt-ed25519 {PUBLIC}"));
    for (text, reason) in [
        (String::new(), "is not a private key"),
        ("redoubt-ed25519-secret-v1".into(), "is cut off"),
        (format!("redoubt-ed25519-secret-v3 {SECRET}"), "newer format"),
        (format!("redoubt-ed25519 {PUBLIC}"), "is a public key"),
        (format!("redoubt-ed25519-secret-v1 {}", &SECRET[1..]), "64 hexadecimal digits"),
        (format!("redoubt-ed25519-secret-v1 {SECRET} {SECRET}"), "more than a key"),
        ("x".repeat(5000), "is not a private key"),
    ] {
        let message = load(&text).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains(&SECRET[..8]), "never quoted: {message}");
    }
}

#[test]
fn public_keys_as_text() {
    let full = PublicKey::parse(&format!(" redoubt-ed25519  {PUBLIC}  a b \n"), "x").unwrap();
    assert_eq!((hex::encode(full.bytes).as_str(), full.comment.as_str()), (PUBLIC, "a b"));
    assert_eq!(PublicKey::parse(PUBLIC, "x").unwrap().bytes, full.bytes);
    assert_eq!(fingerprint(&full.bytes), "SHA256:21fe31dfa154a261626bf854046fd227");
    let secret = format!("redoubt-ed25519-secret-v1 {SECRET}");
    let weak = format!("redoubt-ed25519 01{}", "0".repeat(62));
    let two = format!("redoubt-ed25519 {PUBLIC}\nredoubt-ed25519 {PUBLIC}");
    for text in ["", "ssh-ed25519 AAAA", "redoubt-ed25519", "redoubt-ed25519 12", &secret, &weak, &two] {
        assert!(matches!(PublicKey::parse(text, "x"), Err(KeyError::Format { .. })), "{text}");
    }
}
