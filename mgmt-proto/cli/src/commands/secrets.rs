//! Secrets that a person types.

use mgmt_proto::code::Failure;
use mgmt_proto::secret::Secret;
use redoubt::initiator::secret;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What was typed: on many nodes at a time one question is asked once.
static TYPED: Mutex<BTreeMap<String, Secret>> = Mutex::new(BTreeMap::new());

/// Asks at the terminal, once for each question.
pub(crate) fn ask(question: &str) -> Result<Secret, Failure> {
    let mut typed = TYPED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(secret) = typed.get(question) {
        return Ok(secret.clone());
    }
    let secret = Secret::new(secret::ask(question)?.expose().to_vec());
    typed.insert(question.into(), secret.clone());
    Ok(secret)
}
