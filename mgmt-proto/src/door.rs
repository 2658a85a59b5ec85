//! What a node does with those who knock, before any of them has a session.
//!
//! It holds no state for a connection: what it sent first is made again from its
//! ephemeral key and the connection's challenge when the second message comes. Hashes
//! come before lanes, lanes before Diffie-Hellman, whether the key has a grant before
//! its signature. So what a stranger can make it do is bounded, and each operator whom it
//! gave a pass has a lane that nobody else can fill.

use crate::handshake::{
    self, ANSWER_BYTES, GREETING_BYTES, HELLO_BYTES, HELLO_HEAD_BYTES, Keys, NO_KEY, PeerFault, VERSION,
    agree, derive, field, first_key, greeting_of, is_tag, keyed, knock_digest, knock_key, name_field,
    personal_key,
};
use crate::limits::{
    EPHEMERAL_FRESH_NS, EPHEMERAL_NS, FAST_LANE, KNOCKS_REMEMBERED, Lane, PERSONAL_LANE, SLOW_LANE,
};
use crate::record::{Opener, Sealer};
use crate::server::{Identity, Server};
use crate::trust::Trust;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const PASS_LABEL: &[u8] = b"redoubt pass 1";

/// A token bucket, kept as the time at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_ns: u64,
}

impl Bucket {
    fn take(&mut self, lane: Lane, now_ns: u64) -> bool {
        let full_ns = self.full_ns.max(now_ns).saturating_add(lane.interval_ns);
        let is_there = full_ns - now_ns <= lane.burst.saturating_mul(lane.interval_ns);
        if is_there {
            self.full_ns = full_ns;
        }
        is_there
    }
}

/// The node's half of the first Diffie-Hellman; wiped when it is dropped.
struct Ephemeral {
    secret: StaticSecret,
    public: [u8; 32],
    made_ns: u64,
}

/// What tags are compared with. All of it follows from the node's keys and whom it trusts.
#[derive(Default)]
struct Keyring {
    own: [u8; 32],
    former: Vec<[u8; 32]>,
    operators: Vec<[u8; 32]>,
    /// Of the own key, the former ones, and none.
    knocks: Vec<([u8; 32], Hmac<Sha256>)>,
    /// In the order of `operators`.
    personal: Vec<Hmac<Sha256>>,
}

/// Who knocks, as far as tags tell.
#[derive(Clone, Copy)]
enum Caller {
    /// The operator whom the node gave this pass.
    Known([u8; 32]),
    /// Knows one of the node's keys.
    Fast,
    /// Knows none.
    Slow,
}

/// Where operators knock.
#[derive(Default)]
pub struct Door {
    /// The newest first; two at most.
    ephemerals: Vec<Ephemeral>,
    keyring: Keyring,
    fast: Bucket,
    slow: Bucket,
    personal: Vec<([u8; 32], Bucket)>,
    /// When a knock was let through, and what it is remembered by, for as long as its
    /// ephemeral key may live.
    remembered: VecDeque<(u64, [u8; 8])>,
    /// The last knock went as far as Diffie-Hellman.
    worked: bool,
}

/// By which the node knows an operator again.
fn pass_of(key: &SigningKey, operator: &[u8; 32]) -> [u8; 32] {
    let secret = Zeroizing::new(key.to_bytes());
    let label: [u8; 32] = Sha256::new().chain_update(PASS_LABEL).chain_update(*secret).finalize().into();
    keyed(&Zeroizing::new(label)).chain_update(operator).finalize().into_bytes().into()
}

impl Keyring {
    fn is_of(&self, own: &[u8; 32], former: &[[u8; 32]], trust: &Trust) -> bool {
        self.own == *own
            && self.former == former
            && trust.bundle().grants.iter().map(|it| it.key).eq(self.operators.iter().copied())
    }

    fn new(identity: &Identity, trust: &Trust) -> Self {
        let own = identity.key.verifying_key().to_bytes();
        let operators: Vec<[u8; 32]> = trust.bundle().grants.iter().map(|grant| grant.key).collect();
        let known = core::iter::once(&own).chain(&identity.former).chain([&NO_KEY]);
        let knocks = known.map(|key| (*key, knock_key(key))).collect();
        let personal = operators.iter().map(|it| personal_key(&own, &pass_of(&identity.key, it))).collect();
        Self { own, former: identity.former.clone(), operators, knocks, personal }
    }

    /// The key that the knock names, and who that is.
    fn look(&self, knock: &[u8; 32], tags: [&[u8; 16]; 2]) -> Option<([u8; 32], Caller)> {
        let [known, personal] = tags;
        let (key, _) = self.knocks.iter().find(|(_, key)| is_tag(key, knock, known))?;
        let caller = if *key == NO_KEY {
            Caller::Slow
        } else if *key == self.own {
            let mut operators = self.operators.iter().zip(&self.personal);
            let found = operators.find(|(_, key)| is_tag(key, knock, personal));
            found.map_or(Caller::Fast, |(operator, _)| Caller::Known(*operator))
        } else {
            Caller::Fast
        };
        Some((*key, caller))
    }
}

impl Door {
    /// Message 1 for a connection whose challenge no other one has.
    pub fn greeting(
        &mut self,
        challenge: &[u8; 32],
        random: &mut dyn FnMut() -> [u8; 32],
        now_ns: u64,
    ) -> [u8; GREETING_BYTES] {
        self.tend(now_ns);
        let is_fresh = |it: &Ephemeral| now_ns.saturating_sub(it.made_ns) < EPHEMERAL_FRESH_NS;
        if !self.ephemerals.first().is_some_and(is_fresh) {
            let secret = StaticSecret::from(*Zeroizing::new(random()));
            let public = PublicKey::from(&secret).to_bytes();
            self.ephemerals.insert(0, Ephemeral { secret, public, made_ns: now_ns });
        }
        let public = self.ephemerals.first().map_or([0; 32], |it| it.public);
        greeting_of(&public, challenge)
    }

    /// Whether a knock since this was asked last was more work than hashes are.
    pub const fn take_worked(&mut self) -> bool {
        core::mem::replace(&mut self.worked, false)
    }

    /// Wipes what has lived long enough.
    pub fn tend(&mut self, now_ns: u64) {
        self.ephemerals.retain(|it| now_ns.saturating_sub(it.made_ns) < EPHEMERAL_NS);
        while self
            .remembered
            .pop_front_if(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= EPHEMERAL_NS)
            .is_some()
        {}
    }

    /// When [`Self::tend`] has something to wipe.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.ephemerals.last().map(|it| it.made_ns.saturating_add(EPHEMERAL_NS))
    }

    /// Takes message 2 of the connection with this challenge: an operator who has proved to
    /// be one, and is to be answered.
    ///
    /// # Errors
    /// [`PeerFault::Busy`] when the same message may come again later; else why it is not
    /// believed.
    pub fn knock(
        &mut self,
        challenge: &[u8; 32],
        hello: &[u8; HELLO_BYTES],
        (identity, trust): (&Identity, &Trust),
        now_ns: u64,
    ) -> Result<Proved, PeerFault> {
        self.tend(now_ns);
        let own = identity.key.verifying_key().to_bytes();
        if !self.keyring.is_of(&own, &identity.former, trust) {
            self.keyring = Keyring::new(identity, trust);
        }
        let ephemeral = field::<32>(hello, 0)?;
        let tags: [[u8; 16]; 2] = [field(hello, 32)?, field(hello, 48)?];
        let found = self.ephemerals.iter().enumerate().find_map(|(index, it)| {
            let greeting = greeting_of(&it.public, challenge);
            let found = self.keyring.look(&knock_digest(&greeting, &ephemeral), tags.each_ref())?;
            Some((index, greeting, found))
        });
        let (index, greeting, (known, caller)) = found.ok_or(PeerFault::Stranger)?;
        self.let_through(caller, &tags, now_ns)?;
        let node = self.ephemerals.get(index).ok_or(PeerFault::Stranger)?;
        self.worked = true;
        let shared = agree(&node.secret, ephemeral)?;
        let operator = open(&greeting, hello, (&known, caller), &shared, (identity, trust))?;
        Ok(Proved { greeting, hello: *hello, ephemeral, shared, operator })
    }

    /// Whether it is a caller's turn. What was let through once never is again.
    fn let_through(&mut self, caller: Caller, tags: &[[u8; 16]; 2], now_ns: u64) -> Result<(), PeerFault> {
        let knock = field(tags.as_flattened(), 0)?;
        if self.remembered.iter().any(|(_, other)| *other == knock) {
            return Err(PeerFault::Seal);
        }
        let (bucket, lane) = match caller {
            Caller::Slow => (&mut self.slow, SLOW_LANE),
            Caller::Fast => (&mut self.fast, FAST_LANE),
            Caller::Known(operator) => {
                let operators = &self.keyring.operators;
                self.personal.retain(|(key, bucket)| bucket.full_ns > now_ns && operators.contains(key));
                let index = self.personal.iter().position(|(key, _)| *key == operator);
                let index = index.unwrap_or_else(|| {
                    self.personal.push((operator, Bucket::default()));
                    self.personal.len() - 1
                });
                let (_, bucket) = self.personal.get_mut(index).ok_or(PeerFault::Busy)?;
                (bucket, PERSONAL_LANE)
            }
        };
        if self.remembered.len() >= KNOCKS_REMEMBERED || !bucket.take(lane, now_ns) {
            return Err(PeerFault::Busy);
        }
        self.remembered.push_back((now_ns, knock));
        Ok(())
    }
}

/// An operator who has signed, and is not yet answered: that is as much work again.
pub struct Proved {
    greeting: [u8; GREETING_BYTES],
    hello: [u8; HELLO_BYTES],
    ephemeral: [u8; 32],
    shared: Zeroizing<[u8; 32]>,
    operator: [u8; 32],
}

impl Proved {
    /// Who it is.
    #[must_use]
    pub const fn operator(&self) -> &[u8; 32] {
        &self.operator
    }

    /// A session that waits for its first record and has message 3 to send. `seed` must be
    /// fresh random bytes.
    ///
    /// # Errors
    /// What it sent makes no secret.
    pub fn answer(&self, identity: &Identity, seed: [u8; 32], now_ns: u64) -> Result<Server, PeerFault> {
        let Self { greeting, hello, ephemeral, shared, operator } = self;
        answer(greeting, hello, (*ephemeral, shared), *operator, identity, seed)
            .map(|(keys, answer)| Server::new(keys, *operator, identity, &answer, now_ns))
    }
}

/// Opens message 2's box: the operator, who has a grant now and signed.
fn open(
    greeting: &[u8; GREETING_BYTES],
    hello: &[u8; HELLO_BYTES],
    (known, caller): (&[u8; 32], Caller),
    shared: &[u8; 32],
    (identity, trust): (&Identity, &Trust),
) -> Result<[u8; 32], PeerFault> {
    let (head, sealed) = hello.split_at_checked(HELLO_HEAD_BYTES).ok_or(PeerFault::Length)?;
    let key = first_key(greeting, hello, known, shared)?;
    let plain = Opener::new(&key).open(sealed)?;
    let mut fields = handshake::Fields(&plain);
    if fields.take()? != VERSION.to_le_bytes() {
        return Err(PeerFault::Version);
    }
    let operator = fields.take()?;
    let (meant, name) = (fields.take::<32>()?, fields.take()?);
    if meant != *known || name != name_field("")? && name != name_field(&identity.name)? {
        return Err(PeerFault::Elsewhere);
    }
    // Nobody lends his pass: it would let others fill the lane of another.
    if matches!(caller, Caller::Known(other) if other != operator) {
        return Err(PeerFault::Stranger);
    }
    trust.role(&operator).ok_or(PeerFault::Stranger)?;
    handshake::verify(&operator, &handshake::hello_signed(greeting, head, &plain)?, &fields.take()?)?;
    Ok(operator)
}

/// Keys and message 3. `seed` must be fresh random bytes.
fn answer(
    greeting: &[u8; GREETING_BYTES],
    hello: &[u8; HELLO_BYTES],
    (ephemeral, shared): ([u8; 32], &[u8; 32]),
    operator: [u8; 32],
    identity: &Identity,
    seed: [u8; 32],
) -> Result<(Keys, [u8; ANSWER_BYTES]), PeerFault> {
    let secret = StaticSecret::from(*Zeroizing::new(seed));
    let fresh = PublicKey::from(&secret).to_bytes();
    let secrets = derive(greeting, hello, &fresh, [shared, &*agree(&secret, ephemeral)?])?;
    let node = identity.key.verifying_key().to_bytes();
    let (name, pass) = (name_field(&identity.name)?, Zeroizing::new(pass_of(&identity.key, &operator)));
    let facts = [&node[..], &identity.boot_nonce, &name, &identity.manifest, &*pass, &[0; 64]].concat();
    let facts = Zeroizing::new(facts);
    let transcript = (greeting, hello, &fresh);
    let signed = handshake::answer_signed(transcript, &secrets.session, &operator, &facts)?;
    let signature = identity.key.sign(&signed).to_bytes();
    let facts = facts.get(..handshake::ANSWER_PLAIN_BYTES - 64).ok_or(PeerFault::Length)?;
    let plain = Zeroizing::new([facts, &signature].concat());
    let sealed = Sealer::new(&secrets.answer).seal(&plain)?;
    let message = <[u8; ANSWER_BYTES]>::try_from([&fresh[..], &sealed].concat());
    let keys = Keys {
        sealer: Sealer::new(&secrets.to_operator),
        opener: Opener::new(&secrets.to_node),
        session: secrets.session,
    };
    Ok((keys, message.map_err(|_| PeerFault::Length)?))
}
