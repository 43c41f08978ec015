//! The events of the requests in flight.
//!
//! A request owns its records until it is answered. The checkpoint needs the positions of their events, so
//! these positions are copied before the request is sent.

use crate::pack::{OutstandingEvent, QueuedEvent, Record};

/// The events of the requests in flight.
#[derive(Debug, Default)]
pub(super) struct EventsInFlight {
    requests: Vec<(u64, Vec<OutstandingEvent>)>,
    /// The number of the next request.
    next: u64,
    /// The list of an answered request, to reuse its buffer.
    spare: Vec<OutstandingEvent>,
}

impl EventsInFlight {
    /// Adds the events of a request. Returns the request's number.
    pub(super) fn add(&mut self, records: &[Record]) -> u64 {
        let mut events = std::mem::take(&mut self.spare);
        events.clear();
        for record in records {
            events.extend(record.events().iter().map(QueuedEvent::outstanding));
        }
        self.requests.push((self.next, events));
        self.next += 1;
        self.next - 1
    }

    /// Removes the events of an answered request.
    pub(super) fn remove(&mut self, number: u64) {
        if let Some(at) = self.requests.iter().position(|(other, _)| *other == number) {
            self.spare = self.requests.swap_remove(at).1;
        }
    }

    /// All events.
    pub(super) fn events(&self) -> impl Iterator<Item = OutstandingEvent> {
        self.requests
            .iter()
            .flat_map(|(_, events)| events.iter().copied())
    }
}
