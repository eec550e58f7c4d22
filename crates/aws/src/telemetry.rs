//! Logs as JSON lines on standard output, where CloudWatch reads them.
//!
//! Invariant: each line has `level` and `timestamp` (RFC 3339). Without a valid `timestamp` Lambda takes a line for INFO,
//! whatever its level (Lambda developer guide, "Log-level filtering").

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. `RUST_LOG` chooses levels; `info` otherwise. Again is the same as once.
pub fn init() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    if lines(filter, std::io::stdout).try_init().is_err() {
        tracing::debug!("logging was started before");
    }
}

fn lines<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use aws_smithy_types::DateTime;
    use aws_smithy_types::date_time::Format;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_what_lambda_and_the_alarms_read() {
        let memory = Memory::default();
        let kept = memory.clone();
        let subscriber = lines(EnvFilter::new("info"), move || memory.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not asked for");
            tracing::error!(code = "Internal", "a task failed");
        });
        let written = kept.0.lock().unwrap().clone();
        let line: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!((&line["level"], &line["code"]), (&"ERROR".into(), &"Internal".into()), "{line}");
        assert_eq!(line["message"], "a task failed");
        let at = DateTime::from_str(line["timestamp"].as_str().unwrap(), Format::DateTime).unwrap();
        // 2026-01-01: a clock's time, and not a constant.
        assert!(at.secs() > 1_767_225_600, "{line}");
    }
}
