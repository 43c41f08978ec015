//! Changes on standard output, and everything else on standard error.

use std::io::{IsTerminal, Write as _};

use super::summary;
use crate::demo::screen::bytes;

/// Both outputs. On a terminal, the last line of standard error is a status.
pub(super) struct TryItScreen {
    /// Whether a change is one line, and not its event.
    summarizes: bool,
    colours: bool,
    has_status: bool,
    /// Rate and lag of the status line; `None` without such a line.
    status: Option<(f64, Option<u64>)>,
    changes: u64,
}

impl TryItScreen {
    pub(super) fn new(summarizes: bool) -> Self {
        Self {
            summarizes,
            colours: std::io::stdout().is_terminal() && super::variable("NO_COLOR").is_none(),
            has_status: std::io::stderr().is_terminal(),
            status: None,
            changes: 0,
        }
    }

    /// Whether there is a status line to update.
    pub(super) fn has_status(&self) -> bool {
        self.has_status
    }

    /// Number of printed events.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Prints a sentence on standard error.
    pub(super) fn print_line(&mut self, text: &str) {
        self.erase_status();
        eprintln!("{text}");
        self.draw_status();
    }

    /// Prints events on standard output.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub(super) fn print(&mut self, events: &[Vec<u8>]) -> std::io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let width = match self.colours {
            true => terminal_size::terminal_size().map_or(usize::MAX, |(width, _)| usize::from(width.0)),
            false => usize::MAX,
        };
        let mut text = Vec::new();
        for event in events {
            match self.summarizes {
                true => text.extend(summary::line(event, width, self.colours).into_bytes()),
                // DMS ends its events with a line break.
                false => text.extend(event.trim_ascii_end()),
            }
            text.push(b'\n');
        }
        self.erase_status();
        let mut output = std::io::stdout().lock();
        output.write_all(&text)?;
        output.flush()?;
        self.changes += events.len() as u64;
        self.draw_status();
        Ok(())
    }

    /// Shows rate and lag on the last line.
    pub(super) fn status(&mut self, rate: f64, lag: Option<u64>) {
        self.erase_status();
        self.status = Some((rate, lag));
        self.draw_status();
    }

    /// Removes the status line.
    pub(super) fn clear_status(&mut self) {
        self.erase_status();
        self.status = None;
    }

    fn erase_status(&self) {
        if self.status.is_some() {
            eprint!("\r\x1b[2K");
        }
    }

    fn draw_status(&self) {
        if let Some((rate, lag)) = self.status {
            let lag = lag.map_or_else(|| "unknown".to_owned(), bytes);
            let changes = self.changes;
            eprint!("\x1b[2m{rate:.0} events/s, {changes} in all, lag {lag}; ^C ends\x1b[0m");
        }
    }
}
