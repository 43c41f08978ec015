//! Lines of the log: JSON objects with the fields of the invocation.
//!
//! The fields have the names and meanings of AWS Lambda Powertools: `service`, `cold_start`,
//! `function_request_id` and `xray_trace_id`. They are at the top level of the object, and the formatter of
//! tracing-subscriber can only nest fields.
//!
//! Lambda filters the lines by their `level` (`ApplicationLogLevel`).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value, json};
use tracing::{Event, Subscriber};
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Fields of each log line, shared by all writers of lines.
///
/// The fields describe the running invocation: a sandbox runs one invocation at a time. Tasks on other
/// threads use the same fields. The fields of a tracing span would not be visible to these tasks. Between two
/// invocations, the fields are those of the earlier one.
#[derive(Debug, Clone)]
pub struct LineFields(Arc<Mutex<Map<String, Value>>>);

impl LineFields {
    /// The fields before the first invocation.
    pub fn new(service: &str) -> Self {
        let fields = [("service", json!(service)), ("cold_start", json!(true))];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        LineFields(Arc::new(Mutex::new(Map::from_iter(fields))))
    }

    /// Sets the fields of a new invocation.
    ///
    /// `trace_header` is the header `Lambda-Runtime-Trace-Id`, such as `Root=1-…;Parent=…;Sampled=0`.
    pub fn begin(&self, request_id: &str, trace_header: Option<&str>) {
        let mut fields = self.lock();
        let previous = fields.insert("function_request_id".to_owned(), json!(request_id));
        fields.insert("cold_start".to_owned(), json!(previous.is_none()));
        let root =
            trace_header.and_then(|header| header.split(';').find_map(|part| part.strip_prefix("Root=")));
        match root {
            Some(root) => fields.insert("xray_trace_id".to_owned(), json!(root)),
            None => fields.remove("xray_trace_id"),
        };
    }

    /// Adds the fields to an object.
    pub fn add_to(&self, object: &mut Map<String, Value>) {
        object.extend(self.lock().clone());
    }

    fn lock(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Format of a line.
#[derive(Debug)]
pub struct LineFormat {
    fields: LineFields,
}

impl LineFormat {
    /// The format with these fields.
    pub fn new(fields: LineFields) -> Self {
        LineFormat { fields }
    }

    fn object(&self, event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut timestamp = String::new();
        // Writing into a text does not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &timestamp)?;
        object.serialize_entry("level", event.metadata().level().as_str())?;
        let mut visitor = SerdeMapVisitor::new(object);
        event.record(&mut visitor);
        let mut object = visitor.take_serializer()?;
        object.serialize_entry("target", event.metadata().target())?;
        for (name, value) in self.fields.lock().iter() {
            object.serialize_entry(name, value)?;
        }
        object.end()?;
        Ok(line)
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = self.object(event).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// The lines that `write` logs.
    fn lines(fields: &LineFields, write: impl FnOnce()) -> Vec<Value> {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(LineFormat::new(fields.clone()))
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), write);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with('\n'), "{text:?}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_has_the_fields_of_its_invocation() {
        let fields = LineFields::new("spillway");
        let lines = lines(&fields, || {
            tracing::error!("not valid");
            fields.begin(
                "a",
                Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=5;Sampled=0"),
            );
            tracing::debug!(rows = 2, table = "we\"ird\nname", "read");
            fields.begin("b", None);
            tracing::warn!("again");
        });
        let of = |line: &Value| {
            ["service", "cold_start", "function_request_id", "xray_trace_id"].map(|name| line[name].clone())
        };
        let root = json!("1-5759e988-bd862e3fe1be46a994272793");
        let service = json!("spillway");
        assert_eq!(
            of(&lines[0]),
            [service.clone(), json!(true), Value::Null, Value::Null]
        );
        assert_eq!(of(&lines[1]), [service.clone(), json!(true), json!("a"), root]);
        assert_eq!(of(&lines[2]), [service, json!(false), json!("b"), Value::Null]);
        let event = ["level", "message", "table", "target"].map(|name| lines[1][name].as_str().unwrap());
        assert_eq!(
            event,
            ["DEBUG", "read", "we\"ird\nname", "drain::logging::format::tests"]
        );
        assert_eq!(lines[1]["rows"], 2);
    }
}
