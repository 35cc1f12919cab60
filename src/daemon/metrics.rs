//! Installs the metrics recorder and serves it to Prometheus.
//!
//! Called once, by the daemon.

use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tracing::{error, warn};

use crate::clock;
use crate::daemon::Mode;
use crate::metric;
use crate::settings::MetricSettings;

/// Serves metrics where the settings say; gives the address, or `None` when they are off.
pub(super) fn install(settings: &MetricSettings, mode: Mode) -> Result<Option<SocketAddr>> {
    if !settings.enabled {
        return Ok(None);
    }
    let address = free_address(settings.listen, mode)?;
    let mut builder = PrometheusBuilder::new().with_http_listener(address);
    for (name, bounds) in metric::BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)?;
    }
    let (recorder, exporter) = builder
        .build()
        .with_context(|| format!("failed to serve metrics on {address} (metrics.listen)"))?;
    metrics::set_global_recorder(recorder).context("failed to install the metrics recorder")?;
    metric::describe();
    metric::build_info();
    clock::spawn(async move {
        if exporter.await.is_err() {
            error!("metrics are no longer served");
        }
    });
    Ok(Some(address))
}

/// The address to listen on. A daemon that was started by a command, and so did not choose its
/// port, takes any when the usual one is taken; one that was started by hand says so and ends.
fn free_address(wanted: SocketAddr, mode: Mode) -> Result<SocketAddr> {
    let free = |address| TcpListener::bind(address).and_then(|listener| listener.local_addr());
    let taken = match free(wanted) {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    match mode {
        Mode::Detached if taken.kind() == io::ErrorKind::AddrInUse => {
            let address = free(SocketAddr::new(wanted.ip(), 0))
                .with_context(|| format!("no port of {} is free for metrics", wanted.ip()))?;
            warn!(%wanted, %address, "metrics port is taken, took another");
            Ok(address)
        }
        Mode::Detached | Mode::Foreground => bail!(
            "failed to serve metrics on {wanted}: {taken}; another daemon may have the port: set metrics.listen to another one (port 0 takes any free one), or metrics.enabled = false"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_that_names_the_key_unless_the_port_was_nobodys_choice() {
        let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = other.local_addr().unwrap();
        let said = free_address(taken, Mode::Foreground)
            .unwrap_err()
            .to_string();
        assert!(said.contains("metrics.listen"), "{said}");
        let instead = free_address(taken, Mode::Detached).unwrap();
        assert_ne!(instead, taken);
    }
}
