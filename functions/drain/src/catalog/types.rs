//! Types that are not built in, as `pg_type` states them.
//!
//! The OID identifies a type. A name may be ambiguous: a type of another schema may have the same name, and a
//! type may have been renamed. So a name is used only if no OID was sent, or if the type was dropped.

use std::collections::HashMap;

use crate::change::{COMMA, ColumnType, ValueType, format_type};

/// A type that is not built in.
#[derive(Debug, Clone)]
pub struct CatalogType {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name in `pg_type`.
    pub name: String,
    /// Its name as `format_type` prints it.
    pub printed: String,
    /// The extension that it belongs to.
    pub extension: Option<String>,
    /// The form of its values.
    pub form: TypeForm,
}

/// Form of a type's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeForm {
    /// A domain: its values are those of its base type.
    Domain {
        /// OID of the base type.
        base: u32,
        /// Modifier of the base type; -1 without one.
        modifier: i32,
        /// Name of the base type as `format_type` prints it with its modifier.
        base_name: String,
    },
    /// An array.
    Array {
        /// OID of the type of its elements.
        element: u32,
        /// The character between its elements.
        delimiter: u8,
    },
    /// Enum, composite type, range, or base type with its own functions.
    Other,
}

/// The most levels of domains and arrays that are resolved.
///
/// The bound ends the search even if the types of a catalog form a cycle.
const MAX_LEVELS: usize = 64;

/// The types of one database that are not built in.
#[derive(Debug, Default)]
pub(super) struct TypeCatalog {
    types: HashMap<u32, CatalogType>,
    /// The names are as `format_type` prints them.
    oids_by_printed_name: HashMap<String, u32>,
    /// The same names without their quotes, which wal2json omits.
    oids_by_unquoted_name: HashMap<String, u32>,
    /// Schema and name in `pg_type`.
    oids_by_catalog_name: HashMap<(String, String), u32>,
    /// Names with modifiers, as `format_type` prints them, by OID and modifier.
    names_with_modifier: HashMap<(u32, i32), String>,
}

impl TypeCatalog {
    pub(super) fn insert(&mut self, inserted: CatalogType) {
        let oid = inserted.oid;
        if let TypeForm::Domain {
            base,
            modifier,
            base_name,
        } = &inserted.form
        {
            self.insert_name(*base, *modifier, base_name);
        }
        self.oids_by_printed_name.insert(inserted.printed.clone(), oid);
        if let Some(name) = without_quotes(&inserted.printed) {
            self.oids_by_unquoted_name.insert(name.to_owned(), oid);
        }
        let names = (inserted.schema.clone(), inserted.name.clone());
        self.oids_by_catalog_name.insert(names, oid);
        self.types.insert(oid, inserted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Adds the name of a type with a modifier.
    pub(super) fn insert_name(&mut self, oid: u32, modifier: i32, name: &str) {
        if modifier >= 0 && !format_type::is_built_in(oid) {
            self.names_with_modifier.insert((oid, modifier), name.to_owned());
        }
    }

    /// The type with this OID and modifier.
    ///
    /// `None` if the catalog does not contain it.
    pub(super) fn of_oid(&self, oid: u32, modifier: i32) -> Option<ColumnType> {
        self.resolve(oid, modifier, MAX_LEVELS)
    }

    fn resolve(&self, oid: u32, modifier: i32, levels: usize) -> Option<ColumnType> {
        if let Some(built_in) = ColumnType::built_in(oid, modifier) {
            return Some(built_in);
        }
        let found = self.types.get(&oid)?;
        let inner = |oid, modifier| self.resolve(oid, modifier, levels.checked_sub(1)?);
        let named = |kind| ColumnType {
            oid,
            name: self
                .names_with_modifier
                .get(&(oid, modifier))
                .unwrap_or(&found.printed)
                .clone(),
            kind,
        };
        Some(match &found.form {
            TypeForm::Domain {
                base,
                modifier,
                base_name,
            } => inner(*base, *modifier).unwrap_or_else(|| ColumnType::unknown(&**base_name)),
            TypeForm::Array { element, delimiter } => {
                let element_type = inner(*element, modifier);
                let kind = element_type
                    .as_ref()
                    .map_or(ValueType::Text, |it| it.kind.clone());
                let array = named(ValueType::Array(Box::new(kind), *delimiter));
                match element_type {
                    Some(base) if self.is_domain(*element) => ColumnType {
                        name: base.name + "[]",
                        ..array
                    },
                    _ => array,
                }
            }
            TypeForm::Other if found.name == "hstore" && found.extension.as_deref() == Some("hstore") => {
                named(ValueType::Hstore)
            }
            TypeForm::Other => named(ValueType::Text),
        })
    }

    /// The type with this OID, or else with the name `sent`.
    ///
    /// `sent` is the name that the plugin sent, with its modifier. For a domain, it is the name of the base
    /// type.
    pub(super) fn of_oid_and_name(&self, oid: u32, sent: &str) -> ColumnType {
        let modifier = format_type::built_in_of_name(sent).map_or(-1, |(_, modifier)| modifier);
        let Some(resolved) = self.resolve(oid, modifier, MAX_LEVELS) else {
            return self.of_name(sent);
        };
        let is_over_domain = match self.types.get(&oid).map(|found| &found.form) {
            Some(TypeForm::Domain { .. }) => true,
            Some(TypeForm::Array { element, .. }) => self.is_domain(*element),
            _ => false,
        };
        // The resolved name of a domain or its array has the base type. In the second case, the names differ
        // only in the quotes, which wal2json omits.
        if is_over_domain || without_quotes(&resolved.name) == Some(sent) {
            return resolved;
        }
        // Otherwise the sent name is used. It has the modifier, and it is the name at the time of the change.
        ColumnType {
            name: sent.to_owned(),
            ..resolved
        }
    }

    /// The type that `format_type` prints with this name, perhaps with a modifier.
    pub(super) fn of_name(&self, sent: &str) -> ColumnType {
        let of_oid = |oid: &u32| self.of_oid(*oid, -1);
        if let Some(found) = self.oids_by_printed_name.get(sent).and_then(of_oid) {
            return found;
        }
        if let Some((oid, modifier)) = format_type::built_in_of_name(sent)
            && let Some(found) = ColumnType::built_in(oid, modifier)
        {
            return found;
        }
        if let Some(found) = self.oids_by_unquoted_name.get(sent).and_then(of_oid) {
            return found;
        }
        // No type has this name: it was dropped. PostgreSQL prints `[]` at the end of an array's name only.
        match format_type::split_brackets(sent) {
            (_, "") => ColumnType::unknown(sent),
            (element, _) => unknown_array(sent, self.oids_by_printed_name.get(element).and_then(of_oid)),
        }
    }

    /// The type with this schema and name in `pg_type`.
    ///
    /// An empty schema means `pg_catalog`.
    pub(super) fn of_catalog_name(&self, schema: &str, name: &str) -> ColumnType {
        if schema.is_empty() {
            return format_type::built_in_of_catalog_name(name)
                .and_then(|oid| ColumnType::built_in(oid, -1))
                .unwrap_or_else(|| ColumnType::unknown(name));
        }
        let names = (schema.to_owned(), name.to_owned());
        if let Some(found) = self
            .oids_by_catalog_name
            .get(&names)
            .and_then(|oid| self.of_oid(*oid, -1))
        {
            return found;
        }
        // The type was dropped, so only its name shows whether it was an array. PostgreSQL names an array
        // type after the type of its elements, with an underscore before that name.
        match name.strip_prefix('_') {
            Some(element) => unknown_array(&(format_type::printed_name(schema, element) + "[]"), None),
            None => ColumnType::unknown(format_type::printed_name(schema, name)),
        }
    }

    /// The name of a type as `format_type` prints it without modifier.
    pub(super) fn name_alone(&self, oid: u32) -> Option<String> {
        format_type::name_without_modifier(oid)
            .or_else(|| self.types.get(&oid).map(|found| found.printed.clone()))
    }

    fn is_domain(&self, oid: u32) -> bool {
        let form = self.types.get(&oid).map(|found| &found.form);
        matches!(form, Some(TypeForm::Domain { .. }))
    }
}

/// Array type that the catalog lacks.
///
/// `element` is the type of its elements; `None` if the catalog lacks it, too.
fn unknown_array(name: &str, element: Option<ColumnType>) -> ColumnType {
    let element = element.map_or(ValueType::Text, |element| element.kind);
    ColumnType {
        kind: ValueType::Array(Box::new(element), COMMA),
        ..ColumnType::unknown(name)
    }
}

/// Text inside the quotes of a name that is one quoted identifier.
///
/// `None` for another name.
pub(crate) fn without_quotes(printed: &str) -> Option<&str> {
    let inner = printed.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.replace("\"\"", "").contains('"')).then_some(inner)
}
