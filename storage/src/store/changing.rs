//! Changes of a store: what is refused, and what the next transaction has.

use super::record;
use super::{BLOCK_BYTES, Store, StoreRefusal};
use crate::limits::{
    STORE_BYTES_MAX, STORE_KEY_BYTES_MAX, STORE_KEYS_MAX, STORE_RECORD_BYTES_MAX, STORE_VALUE_BYTES_MAX,
};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Store {
    /// Sets a key, in the transaction whose number is returned: see
    /// [`Self::confirmed`].
    ///
    /// # Errors
    /// [`StoreRefusal`]; nothing has changed then.
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<u64, StoreRefusal> {
        if value.len() > STORE_VALUE_BYTES_MAX {
            return Err(StoreRefusal::TooLong);
        }
        self.change(key, Some(value))
    }

    /// Removes a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreRefusal`]; nothing has changed then.
    pub fn remove(&mut self, key: &str) -> Result<u64, StoreRefusal> {
        self.change(key, None)
    }

    /// Makes several changes in one transaction, all or none. Changes that wait
    /// already may become part of it.
    ///
    /// # Errors
    /// [`StoreRefusal`]; nothing has changed then.
    pub fn change_all(&mut self, changes: &[(String, Option<Vec<u8>>)]) -> Result<u64, StoreRefusal> {
        if !self.is_open() {
            return Err(StoreRefusal::Closed);
        }
        let (mut bytes, mut keys, mut record_bytes) = (self.bytes, self.entries.len(), self.pending_bytes);
        for (index, (key, value)) in changes.iter().enumerate() {
            let value_bytes = value.as_ref().map_or(0, Vec::len);
            if key.is_empty() || key.len() > STORE_KEY_BYTES_MAX || value_bytes > STORE_VALUE_BYTES_MAX {
                return Err(StoreRefusal::TooLong);
            }
            // What an earlier one of these left counts, not what was there before.
            let earlier = changes.iter().take(index).rev().find(|(other, _)| other == key);
            let old = match earlier {
                Some((_, value)) => value.as_ref().map(Vec::len),
                None => self.entries.get(key).map(Vec::len),
            };
            if let Some(old) = old {
                bytes -= key.len() + old;
                keys -= 1;
            }
            if value.is_some() {
                bytes += key.len() + value_bytes;
                keys += 1;
            }
            record_bytes += record::change_bytes(key, value.as_deref());
        }
        if bytes > STORE_BYTES_MAX || keys > STORE_KEYS_MAX {
            return Err(StoreRefusal::Full);
        }
        // Half a block for the record's own fields.
        if record_bytes > STORE_RECORD_BYTES_MAX - BLOCK_BYTES / 2 {
            let alone = record_bytes - self.pending_bytes > STORE_RECORD_BYTES_MAX - BLOCK_BYTES / 2;
            return Err(if alone { StoreRefusal::TooLong } else { StoreRefusal::Busy });
        }
        for (key, value) in changes {
            self.change(key, value.as_deref())?;
        }
        Ok(self.ticket)
    }

    fn change(&mut self, key: &str, value: Option<&[u8]>) -> Result<u64, StoreRefusal> {
        if !self.is_open() {
            return Err(StoreRefusal::Closed);
        }
        if key.is_empty() || key.len() > STORE_KEY_BYTES_MAX {
            return Err(StoreRefusal::TooLong);
        }
        let old = self.entries.get(key).map_or(0, |value| key.len() + value.len());
        let new = value.map_or(0, |value| key.len() + value.len());
        if self.bytes - old + new > STORE_BYTES_MAX
            || (old == 0 && new != 0 && self.entries.len() >= STORE_KEYS_MAX)
        {
            return Err(StoreRefusal::Full);
        }
        let change_bytes = record::change_bytes(key, value);
        // Half a block for the record's own fields.
        if self.pending_bytes + change_bytes > STORE_RECORD_BYTES_MAX - BLOCK_BYTES / 2 {
            return Err(StoreRefusal::Busy);
        }
        self.pending_bytes += change_bytes;
        self.pending.push((key.to_string(), value.map(<[u8]>::to_vec)));
        self.apply(key, value.map(<[u8]>::to_vec));
        Ok(self.ticket)
    }

    pub(super) fn apply(&mut self, key: &str, value: Option<Vec<u8>>) {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= key.len() + old.len();
        }
        if let Some(value) = value {
            self.bytes += key.len() + value.len();
            self.entries.insert(key.to_string(), value);
        }
    }
}
