//! Values of columns in a form that events and PostgreSQL share.

use serde_json::Value;

/// A value of a column, from an event or from PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColumnValue {
    /// Null.
    Null,
    /// Text of the value.
    Text(String),
    /// Elements of an array, all dimensions in one list.
    List(Vec<ColumnValue>),
}

impl ColumnValue {
    /// Value from an event.
    ///
    /// Numbers of a `float` column become the shortest text of their double: JSON and PostgreSQL write
    /// exponents differently.
    pub fn of(value: &Value, float: bool) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Text(value.to_string()),
            Value::Number(number) if float => Self::Text(shortest(&number.to_string())),
            Value::String(text) if float => Self::Text(shortest(text)),
            Value::Number(number) => Self::Text(number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(elements) => {
                let mut list = Vec::new();
                for element in elements {
                    match Self::of(element, float) {
                        Self::List(inner) => list.extend(inner),
                        cell => list.push(cell),
                    }
                }
                Self::List(list)
            }
            Value::Object(object) => match (object.get("x"), object.get("y")) {
                // Debezium's form of a point.
                (Some(x), Some(y)) => {
                    let coordinate = |value: &Value| shortest(value.to_string().trim_matches('"'));
                    Self::Text(format!("({},{})", coordinate(x), coordinate(y)))
                }
                _ => Self::Text(value.to_string()),
            },
        }
    }

    /// Value from PostgreSQL: its text, or for an array a JSON list of texts.
    pub fn of_text(text: Option<&str>, array: bool, float: bool) -> Self {
        let Some(text) = text else { return Self::Null };
        if array {
            let list: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            return Self::of(&list, float);
        }
        Self::Text(if float { shortest(text) } else { text.to_owned() })
    }
}

fn shortest(text: &str) -> String {
    text.parse::<f64>()
        .map_or_else(|_| text.to_owned(), |number| number.to_string())
}
