//! Output of the demo, with colours on a terminal.

use std::io::IsTerminal;
use std::time::Instant;

use scenarios::consumer::Arrival;
use serde_json::Value;

/// Standard output of the demo.
pub(crate) struct DemoScreen {
    colours: bool,
    start: Instant,
}

/// Kind of a text, which decides on its colour.
#[derive(Clone, Copy)]
pub(crate) enum TextStyle {
    Plain,
    Faint,
    Strong,
    Good,
    Bad,
}

const PATH: &str = r"
   pgbench
      |  transactions
      v
  +------------+  peek   +------------------+ PutRecords  +--------------+  GetRecords  +----------+
  | PostgreSQL | ------> |      drain       | ----------> |   Kinesis    | -----------> | consumer |
  |  {slot} | <------ | (the Lambda, its | <---------- | {stream} |              | rebuilds |
  +------------+ advance |  real binary)    |     ack     +--------------+              +----------+
      ^                  +------------------+                                              |
      |                          | checkpoint                                              |
      |                          v                                                         |
      |                       +-----+                                                      |
      |                       | SSM |                                                      |
      |                       +-----+                                                      |
      +------------------- is every row equal? -------------------------------------------+
";

impl DemoScreen {
    pub(crate) fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colours,
            start: Instant::now(),
        }
    }

    pub(crate) fn picture(&self) {
        let picture = PATH
            .replace("{slot}", "the slot ")
            .replace("{stream}", "the stream  ");
        println!(
            "{}",
            self.paint(TextStyle::Faint, picture.trim_start_matches('\n'))
        );
    }

    /// Prints a line with the seconds since the start.
    pub(crate) fn print_line(&self, tone: TextStyle, text: &str) {
        let seconds = format!("{:5.1} s", self.start.elapsed().as_secs_f32());
        println!(
            "{}  {}",
            self.paint(TextStyle::Faint, &seconds),
            self.paint(tone, text)
        );
    }

    /// Prints a line without the seconds.
    pub(crate) fn print_untimed(&self, tone: TextStyle, text: &str) {
        println!("{}", self.paint(tone, text));
    }

    pub(crate) fn title(&self, text: &str) {
        println!("\n{}", self.paint(TextStyle::Strong, text));
    }

    /// Prints the header of [`DemoScreen::tick`].
    pub(crate) fn tick_header(&self) {
        let names = [
            "tick",
            "from",
            "to",
            "transactions",
            "changes",
            "records",
            "lag",
            "ms",
            "backfill",
        ];
        self.print_line(TextStyle::Faint, &columns(&names.map(str::to_owned)));
    }

    /// Prints the report of one tick.
    pub(crate) fn tick(&self, number: u64, report: &Value) {
        let text = |name: &str| match &report[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cells = [
            number.to_string(),
            text("from"),
            text("to"),
            text("transactions"),
            text("changes"),
            text("records"),
            bytes(report["lag_bytes"].as_u64().unwrap_or(0)),
            text("elapsed_ms"),
            backfill_progress(&report["backfill"]),
        ];
        self.print_line(TextStyle::Plain, &columns(&cells));
    }

    /// Prints an event, one line for each of its parts.
    pub(crate) fn event(&self, arrival: &Arrival) {
        let event = arrival.json();
        println!(
            "  {} {}",
            self.paint(TextStyle::Faint, "partition key"),
            self.paint(TextStyle::Good, &arrival.partition_key)
        );
        let fields = event
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null());
        let fields: Vec<String> = fields
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        for line in wrapped(&format!("{{{}}}", fields.join(","))) {
            println!("  {line}");
        }
        println!();
    }

    /// Prints rows of cells; the first row has the names. The first column is aligned left, the others right.
    pub(crate) fn table(&self, rows: &[Vec<String>]) {
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        for (number, row) in rows.iter().enumerate() {
            let cell = |(at, cell): (usize, &String)| match at {
                0 => format!("{cell:<0$}", width(at)),
                _ => format!("{cell:>0$}", width(at)),
            };
            let line: Vec<String> = row.iter().enumerate().map(cell).collect();
            let tone = if number == 0 {
                TextStyle::Faint
            } else {
                TextStyle::Plain
            };
            println!("  {}", self.paint(tone, &line.join("   ")));
        }
    }

    fn paint(&self, tone: TextStyle, text: &str) -> String {
        let code = match tone {
            TextStyle::Plain => return text.to_owned(),
            TextStyle::Faint => "2",
            TextStyle::Strong => "1",
            TextStyle::Good => "32",
            TextStyle::Bad => "31",
        };
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// A JSON text in lines that end at commas. The many blanks of pgbench's filler are counted instead of
/// printed.
fn wrapped(json: &str) -> Vec<String> {
    let mut text = json.to_owned();
    while let Some(at) = text.find("         ") {
        let blanks = text[at..]
            .chars()
            .take_while(|character| *character == ' ')
            .count();
        text.replace_range(at..at + blanks, &format!("({blanks} blanks)"));
    }
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(',') {
        let opens = ["\"before\"", "\"after\"", "\"source\""]
            .iter()
            .any(|name| part.starts_with(name));
        match lines.last_mut() {
            Some(line) if !opens && line.len() + part.len() <= 100 => line.push_str(part),
            _ => lines.push(format!("  {part}")),
        }
    }
    lines
}

fn columns(cells: &[String; 9]) -> String {
    let [
        number,
        from,
        to,
        transactions,
        changes,
        records,
        lag,
        ms,
        backfill,
    ] = cells;
    let line = format!(
        "{number:>4}  {from:>11}  {to:>11}  {transactions:>12}  {changes:>7}  {records:>7}  {lag:>8}  \
         {ms:>6}  {backfill}"
    );
    line.trim_end().to_owned()
}

/// Progress of the backfill; empty when there is none.
fn backfill_progress(backfill: &Value) -> String {
    let Some(state) = backfill["state"].as_str() else {
        return String::new();
    };
    let rows = backfill["rows"].as_u64().unwrap_or(0);
    match backfill["table"].as_str() {
        Some(table) if state != "finished" => format!("{state}: {rows} rows, {table}"),
        _ => format!("{state}: {rows} rows"),
    }
}

/// A number of bytes with a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
