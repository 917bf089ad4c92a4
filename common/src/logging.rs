//! Tracing set-up: to standard error, as text or JSON, filtered by `PENSTOCK_LOG` or the configuration.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `PENSTOCK_LOG` (for example `storage=debug,info`) overrides `filter`. A second call
/// in one process changes nothing.
///
/// # Errors
/// When the filter is not understood.
pub fn init(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    let text = std::env::var("PENSTOCK_LOG").unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(text)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}
