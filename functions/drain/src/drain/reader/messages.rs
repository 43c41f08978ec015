//! The reader's logical messages: Spillway's own, which are not sent, and those of applications.
//!
//! Every role may write a logical message with any prefix. Consumers act on Spillway's control events, so an
//! application's message must not look like one. The control events are not messages of the log: the function
//! sends them itself. So a message of the log with such a prefix is always an application's.

use std::borrow::Cow;

use super::{ReaderOutput, WindowReader};
use crate::base::lsn::Lsn;
use crate::base::position::PositionSequence;
use crate::change::{Change, Message, message_prefix};
use crate::error::Error;
use crate::ports::PeekRow;

/// Text that is put before an application's prefix that begins with [`message_prefix::SPILLWAY`].
const FOREIGN: &str = "foreign.";

/// The message of the log as it is sent: never with a control event's prefix.
pub(super) fn with_foreign_prefix(message: Message<'_>) -> Message<'_> {
    match message.prefix.starts_with(message_prefix::SPILLWAY) {
        true => Message {
            prefix: Cow::Owned(format!("{FOREIGN}{}", message.prefix)),
            ..message
        },
        false => message,
    }
}

/// The change of the log as it is sent; see [`with_foreign_prefix`].
pub(super) fn change_with_foreign_prefix(change: Change<'_>) -> Change<'_> {
    match change {
        Change::Message(message) => Change::Message(with_foreign_prefix(message)),
        change => change,
    }
}

impl<R: PeekRow> WindowReader<'_, R> {
    /// Processes a logical message outside of transactions.
    ///
    /// Such a message has no commit. So the `commit_end` of its position is the end of the message's record.
    ///
    /// # Errors
    /// The message is within a transaction, the expected marker is missing, or an event is too large.
    pub(super) fn message(
        &mut self,
        lsn: Lsn,
        message: Message<'_>,
        out: &mut ReaderOutput<'_>,
    ) -> Result<(), Error> {
        if self.open.is_some() {
            return Err(self.out_of_place(lsn));
        }
        // Spillway's own messages are transactional. So an application wrote this one, and it is not sent.
        if message_prefix::is_internal(&message.prefix) {
            return Ok(());
        }
        if lsn > self.history.readable {
            self.has_left_out = true;
            return Ok(());
        }
        self.check_expected_marker(lsn)?;
        let id = out.acknowledgements.begin();
        if lsn <= self.history.settled.max(self.history.queued_upto) {
            out.report.skipped += u64::from(lsn <= self.history.settled);
            if lsn <= self.history.queued_upto {
                out.acknowledgements.discard(id);
                return Ok(());
            }
        } else {
            out.report.changes += 1;
            out.acknowledgements.add_change(id);
            out.report.replayed += u64::from(lsn <= self.history.acknowledged);
            let position = PositionSequence::new(lsn).next(lsn);
            let ahead = self.history.ahead.as_ref();
            if ahead.is_some_and(|ahead| ahead.is_message_acknowledged(position)) {
                out.report.acknowledged_ahead += 1;
            } else {
                let message = with_foreign_prefix(message);
                out.report.omitted += self.encoder.encode_message(position, &message);
                self.encoder.queue(id, out)?;
            }
        }
        out.acknowledgements.commit(id, lsn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::MessageParts;

    #[test]
    fn a_message_of_the_log_never_has_the_prefix_of_a_control_event() {
        let sent = |prefix: &'static str| {
            let message = Message {
                prefix: prefix.into(),
                content: b"{}".as_slice().into(),
                omitted: MessageParts::default(),
            };
            with_foreign_prefix(message).prefix.into_owned()
        };
        assert_eq!(sent("spillway.repaired"), "foreign.spillway.repaired");
        assert_eq!(sent("spillway.gap_accepted"), "foreign.spillway.gap_accepted");
        assert_eq!(sent("spillway."), "foreign.spillway.");
        for prefix in [
            "",
            "outbox",
            "spillway",
            "spillways.x",
            "foreign.spillway.repaired",
        ] {
            assert_eq!(sent(prefix), prefix);
        }
    }
}
