//! Key of one row as parts of SQL statements.

/// Key of one row: its columns, each with its value as SQL.
#[derive(Debug, Clone)]
pub(super) struct RowKey(pub(super) Vec<(&'static str, String)>);

impl RowKey {
    /// Names of the columns, as a list.
    pub(super) fn columns(&self) -> String {
        let columns: Vec<&str> = self.0.iter().map(|(column, _)| *column).collect();
        columns.join(", ")
    }

    /// Values of the columns, as a list.
    pub(super) fn values(&self) -> String {
        let values: Vec<&str> = self.0.iter().map(|(_, value)| value.as_str()).collect();
        values.join(", ")
    }

    /// Condition of `where` that selects the row.
    pub(super) fn condition(&self) -> String {
        format!("({})", self.equations(" and "))
    }

    /// Assignments of `update … set` that set this key.
    pub(super) fn assignments(&self) -> String {
        self.equations(", ")
    }

    fn equations(&self, separator: &str) -> String {
        let equations = self.0.iter().map(|(column, value)| format!("{column} = {value}"));
        equations.collect::<Vec<String>>().join(separator)
    }
}

/// Statement that changes the key of one row.
///
/// It changes nothing if another row has the new key. `n` marks the change: it becomes the value of the
/// column `n`.
pub(super) fn change_key(table: &str, from: &RowKey, to: &RowKey, n: u32) -> String {
    format!(
        "update {table} set {}, n = {n} where {} and not exists (select from {table} where {})",
        to.assignments(),
        from.condition(),
        to.condition()
    )
}
