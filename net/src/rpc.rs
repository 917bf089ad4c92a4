//! Requests and replies on top of the transports: dispatch to handlers, deadlines, panics.

pub(crate) mod router;
pub(crate) mod server;

/// The version of every method's messages in this release. It travels in each request, so that a later release can
/// tell which fields to expect.
pub(crate) const METHOD_VERSION: u16 = 1;
