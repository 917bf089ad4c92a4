//! The metrics registry of a process: the `metrics` facade, rendered in the Prometheus text format by
//! `/metrics` of the admin port (`http`). Names are declared once, in a `metrics.rs` of each crate.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::sync::Mutex;

static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Installs the recorder of this process, or returns the one that is there.
///
/// # Panics
/// When another recorder than ours was installed: a bug in start-up order.
pub fn install() -> PrometheusHandle {
    let mut installed = INSTALLED.lock();
    installed
        .get_or_insert_with(|| {
            PrometheusBuilder::new()
                .install_recorder()
                .expect("nothing else in this process installs a recorder")
        })
        .clone()
}
