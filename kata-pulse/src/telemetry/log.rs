//! Sets the log up: tracing events to standard error, as text or as one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log directives {directives:?}")]
    Directives { directives: String, source: tracing_subscriber::filter::ParseError },
    #[error("a logger is installed already")]
    Installed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Installs the process-wide subscriber; a second call is an error, not a panic.
pub fn init(directives: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|source| LogError::Directives { directives: directives.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    }
    .map_err(LogError::Installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_directives_are_named() {
        let error = init("info,kata=loud", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("kata=loud"), "{error}");
    }
}
