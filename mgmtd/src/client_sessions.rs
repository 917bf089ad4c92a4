//! The clients that have a session with the cluster (protocol M7). Leader's memory, pure, with explicit `now`.
//!
//! Invariant: a client is missing from the list only when it has not renewed for a whole expiry, or ended its
//! session. A new leader cannot know that yet, so it lists nothing until one expiry after it began.

use std::{collections::BTreeMap, time::Duration};

use common::env::Instant;
use types::{
    id::ClientId,
    session::ClientSession,
    status::{Status, StatusCode},
};

/// More clients than this are refused: memory stays bounded whatever they send.
const SESSIONS_MAX: usize = 100_000;
/// Descriptions are for people.
const DESCRIPTION_BYTES_MAX: usize = 1024;

/// The sessions one leader knows of.
#[derive(Debug)]
pub(crate) struct ClientSessions {
    expiry: Duration,
    began: Instant,
    sessions: BTreeMap<ClientId, (ClientSession, Instant)>,
}

impl ClientSessions {
    /// The sessions of a leader that begins now.
    pub(crate) fn new(expiry: Duration, now: Instant) -> Self {
        Self {
            expiry,
            began: now,
            sessions: BTreeMap::new(),
        }
    }

    /// Opens or renews a session.
    ///
    /// # Errors
    /// InvalidArgument for an overlong description; Overloaded when there are too many clients.
    pub(crate) fn extend(&mut self, now: Instant, session: ClientSession) -> Result<(), Status> {
        if session.description.len() > DESCRIPTION_BYTES_MAX {
            let message =
                format!("a session's description has at most {DESCRIPTION_BYTES_MAX} bytes");
            return Err(Status::new(StatusCode::InvalidArgument, message));
        }
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&session.client) {
            self.expire(now);
            if self.sessions.len() >= SESSIONS_MAX {
                let message =
                    format!("there are {SESSIONS_MAX} client sessions, no more are taken");
                return Err(Status::new(StatusCode::Overloaded, message));
            }
        }
        self.sessions.insert(session.client, (session, now));
        Ok(())
    }

    /// Ends a session at once; one that is not there has ended.
    pub(crate) fn end(&mut self, client: ClientId) {
        self.sessions.remove(&client);
    }

    /// The clients that are not gone.
    ///
    /// # Errors
    /// NotReady while clients of an earlier leader may not have renewed with this one.
    pub(crate) fn list(&mut self, now: Instant) -> Result<Vec<ClientSession>, Status> {
        let known_at = self.began + self.expiry;
        if now < known_at {
            let message = format!(
                "this manager leads since a moment and knows all client sessions in {} s",
                (known_at - now).as_secs() + 1
            );
            return Err(Status::new(StatusCode::NotReady, message));
        }
        self.expire(now);
        Ok(self
            .sessions
            .values()
            .map(|(session, _)| session.clone())
            .collect())
    }

    fn expire(&mut self, now: Instant) {
        self.sessions
            .retain(|_, (_, renewed)| now < *renewed + self.expiry);
    }
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;

    const EXPIRY: Duration = Duration::from_secs(60);

    fn session(client: u128) -> ClientSession {
        ClientSession {
            client: ClientId(client),
            description: "a mount".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_calls_nobody_gone_before_a_full_expiry() {
        let start = Env::seeded(1).now();
        let mut sessions = ClientSessions::new(EXPIRY, start);
        sessions.extend(start, session(1)).unwrap();
        let early = sessions.list(start + EXPIRY - Duration::from_millis(1));
        assert_eq!(early.unwrap_err().code, StatusCode::NotReady);
        sessions.extend(start + EXPIRY / 2, session(2)).unwrap();
        assert_eq!(sessions.list(start + EXPIRY).unwrap(), [session(2)]);
        assert_eq!(sessions.list(start + EXPIRY * 2).unwrap(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_session_is_gone_at_once() {
        let start = Env::seeded(1).now();
        let mut sessions = ClientSessions::new(EXPIRY, start);
        let later = start + EXPIRY;
        sessions.extend(later, session(1)).unwrap();
        assert_eq!(sessions.list(later).unwrap(), [session(1)]);
        sessions.end(ClientId(1));
        assert_eq!(sessions.list(later).unwrap(), []);
    }
}
