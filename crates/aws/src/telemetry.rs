//! Logs as JSON lines on standard output, where CloudWatch reads them.

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses levels; `info` otherwise. Again is the same as once.
pub fn init() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    // Lambda stamps each line with its own time.
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .without_time()
        .with_env_filter(filter)
        .try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
