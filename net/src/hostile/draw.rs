//! Draws hostile bodies from a seed.

use std::fmt;

use common::env::Env;
use serde::Serialize;
use types::{codec, rpc::Rpc};

use super::{Method, encoder::Encoder};

/// Longer bodies get a sample of their flips and cuts.
const POSITIONS_MAX: usize = 64;

/// Draws hostile bodies from a seed.
#[derive(Clone, Debug)]
pub struct Hostile {
    env: Env,
}

impl Hostile {
    /// The same seed draws the same bodies. Needs a tokio runtime, as `Env::seeded` does.
    pub fn new(seed: u64) -> Self {
        Self {
            env: Env::seeded(seed),
        }
    }

    /// A number below `limit`.
    pub fn below(&self, limit: u64) -> u64 {
        self.env.random_below(limit.max(1))
    }

    /// The encoding of `value` in which of a thousand values about `rate` are others: 0, the largest, neighbours, random
    /// ones; in which lists are empty, long, or announce more than they have; texts are long or no texts.
    ///
    /// # Panics
    /// For types without a postcard encoding, which no message is.
    pub fn nonsense<T: Serialize>(&self, value: &T, rate: u64) -> Vec<u8> {
        let mut encoder = Encoder::new(&self.env, rate);
        let encoded = value.serialize(&mut encoder);
        encoded.expect("a message has a postcard encoding");
        encoder.into_bytes()
    }

    /// The bytes with one bit flipped, cut short, with bytes added, or with bytes replaced.
    pub fn damaged(&self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        let at = self.index(bytes.len());
        match self.below(4) {
            0 if !damaged.is_empty() => damaged[at] ^= 1 << self.below(8),
            1 => damaged.truncate(at),
            2 => damaged.extend(self.random(64)),
            _ => {
                let random = self.random(8);
                for (old, new) in damaged[at..].iter_mut().zip(random) {
                    *old = new;
                }
            }
        }
        damaged
    }

    /// The bytes cut at each place and with each bit flipped; a sample of both when there are many.
    pub fn cuts_and_flips(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for at in self.sample(bytes.len()) {
            bodies.push(bytes[..at].to_vec());
        }
        for bit in self.sample(bytes.len() * 8) {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            bodies.push(flipped);
        }
        bodies
    }

    /// Random bytes, up to a length.
    pub fn random(&self, length_max: usize) -> Vec<u8> {
        let length = self.index(length_max + 1);
        (0..length)
            .map(|_| self.env.random_u64().to_le_bytes()[0])
            .collect()
    }

    fn sample(&self, count: usize) -> Vec<usize> {
        if count <= POSITIONS_MAX {
            return (0..count).collect();
        }
        (0..POSITIONS_MAX).map(|_| self.index(count)).collect()
    }

    fn index(&self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }
}

/// Makes an encoded request of one method; the number says how much of it is nonsense.
type Nonsense = Box<dyn Fn(&Hostile, u64) -> Vec<u8> + Send + Sync>;

/// A request of a method that makes sense, from which hostile ones are made.
pub struct Case {
    /// The method.
    pub method: Method,
    /// The encoded request.
    pub plain: Vec<u8>,
    nonsense: Nonsense,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Case {
    /// A request of `M`.
    pub fn of<M: Rpc>(request: M::Request) -> Self {
        Self {
            method: Method::of::<M>(),
            plain: codec::encode_body(&request),
            nonsense: Box::new(move |hostile, rate| hostile.nonsense(&request, rate)),
        }
    }

    /// One hostile body: mostly nonsense, sometimes the request itself once more, damage, or random bytes.
    pub fn draw(&self, hostile: &Hostile) -> Vec<u8> {
        match hostile.below(20) {
            0 => self.plain.clone(),
            1 => hostile.random(200),
            2 | 3 => hostile.damaged(&self.plain),
            4..8 => (self.nonsense)(hostile, 400),
            8..14 => (self.nonsense)(hostile, 120),
            _ => (self.nonsense)(hostile, 30),
        }
    }
}
