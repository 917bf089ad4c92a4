//! Transport conformance: what every transport must do.
