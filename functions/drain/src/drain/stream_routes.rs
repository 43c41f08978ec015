//! Routing of events to streams, if `STREAM_NAME` has a placeholder.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::settings::Settings;
use crate::base::table_name::TableName;
use crate::change::Relation;
use crate::encode::Event;
use crate::pack::MAIN_STREAM;
use crate::ports::StreamError;
use crate::rules::stream_pattern::{MAX_NAME_BYTES, StreamPattern};

/// Most streams of one drain, including that of messages.
///
/// A new sandbox describes each stream, and all functions of an account share 20 such requests a second.
pub const MAX_STREAMS: usize = 50;

/// Opens streams, and numbers them.
pub(crate) trait StreamOpener {
    /// Opens another stream. Returns its number.
    ///
    /// # Errors
    /// As [`Stream::open`](crate::ports::Stream::open).
    async fn open_stream(&mut self, name: &str) -> Result<usize, StreamError>;
}

/// The open streams, and the stream of each table.
#[derive(Debug)]
pub(crate) struct StreamRoutes {
    /// `None` if all events go to one stream.
    pattern: Option<StreamPattern>,
    /// The number of each stream, by its name.
    numbers: HashMap<String, usize>,
    /// The number of each table's stream.
    tables: HashMap<TableName, usize>,
    /// Table and stream of the last event. Most events have the table of the event before.
    last: Option<(Arc<Relation>, usize)>,
}

impl StreamRoutes {
    /// Routes of a drain. `main` is the name of the stream that is already open.
    pub(crate) fn new(settings: &Settings, main: String) -> Self {
        StreamRoutes {
            pattern: settings.stream_pattern.clone(),
            numbers: HashMap::from([(main, MAIN_STREAM)]),
            tables: HashMap::new(),
            last: None,
        }
    }

    /// The number of an event's stream; `None` if unknown.
    fn find(&mut self, event: &Event) -> Option<usize> {
        let (Some(_), Some(relation)) = (&self.pattern, &event.relation) else {
            return Some(MAIN_STREAM);
        };
        if let Some((last, number)) = &self.last
            && Arc::ptr_eq(last, relation)
        {
            return Some(*number);
        }
        let number = *self.tables.get(&relation.table)?;
        self.last = Some((Arc::clone(relation), number));
        Some(number)
    }

    /// The number of an event's stream. Opens the stream if it is not open yet.
    ///
    /// `None` if the stream cannot be opened before `deadline`. The caller then drops the event. The event's
    /// transaction is not acknowledged, so it is read again.
    ///
    /// # Errors
    /// The stream cannot be opened, or too many are open.
    pub(crate) async fn stream_of(
        &mut self,
        event: &Event,
        opener: &mut impl StreamOpener,
        deadline: Instant,
    ) -> Result<Option<usize>, StreamError> {
        if let Some(number) = self.find(event) {
            return Ok(Some(number));
        }
        let (Some(pattern), Some(relation)) = (&self.pattern, &event.relation) else {
            return Ok(Some(MAIN_STREAM));
        };
        let table = &relation.table;
        let name = pattern.stream_of(table);
        let number = match self.numbers.get(&name) {
            Some(number) => *number,
            None => {
                let opened = Box::pin(self.open(opener, &name, deadline)).await;
                let Some(number) = opened.map_err(|error| error.with_table(table))? else {
                    return Ok(None);
                };
                self.numbers.insert(name, number);
                number
            }
        };
        self.tables.insert(table.clone(), number);
        Ok(Some(number))
    }

    /// Opens a stream. Returns its number; `None` if it is not open at `deadline`.
    async fn open(
        &self,
        opener: &mut impl StreamOpener,
        name: &str,
        deadline: Instant,
    ) -> Result<Option<usize>, StreamError> {
        check_stream_name(name)?;
        if self.numbers.len() == MAX_STREAMS {
            return Err(StreamError::TooMany {
                stream: name.to_owned(),
                most: MAX_STREAMS,
            });
        }
        match tokio::time::timeout_at(deadline.into(), opener.open_stream(name)).await {
            Ok(opened) => opened.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// Checks the length of a stream's name.
///
/// `stream` is the name, or an ARN that contains it.
///
/// # Errors
/// It is longer than Kinesis accepts.
pub fn check_stream_name(stream: &str) -> Result<(), StreamError> {
    let name = stream.rsplit('/').next().unwrap_or(stream);
    match name.len() > MAX_NAME_BYTES {
        true => Err(StreamError::NameTooLong {
            stream: stream.to_owned(),
            length: name.len(),
            most: MAX_NAME_BYTES,
        }),
        false => Ok(()),
    }
}
