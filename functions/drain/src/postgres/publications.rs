//! SQL that lists the tables of publications.

/// Common table expressions: `publications` and `members`. See the file.
///
/// They follow `with`. $1 are the names of the publications.
pub(super) const MEMBERS: &str = include_str!("publication_members.sql");

/// [`MEMBERS`], and `below`, `published_oids` and `published`. See the files.
///
/// They follow `with recursive`. $1 are the names of the publications.
pub(super) const PUBLISHED: &str = concat!(
    include_str!("publication_members.sql"),
    ",\n",
    include_str!("published_tables.sql")
);
