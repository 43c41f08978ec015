//! Columns that are omitted from the images of an event.

/// Image of a row: before or after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Image {
    Old,
    New,
}

/// Columns omitted from each image of an event.
///
/// A column is an index into the relation's columns.
#[derive(Debug, Default)]
pub(super) struct OmittedColumns {
    old: Vec<usize>,
    new: Vec<usize>,
}

impl OmittedColumns {
    /// No column is omitted.
    pub(super) const NONE: OmittedColumns = OmittedColumns {
        old: Vec::new(),
        new: Vec::new(),
    };

    pub(super) fn is_empty(&self) -> bool {
        self.old.is_empty() && self.new.is_empty()
    }

    /// Omits a column from an image.
    pub(super) fn add(&mut self, image: Image, column: usize) {
        match image {
            Image::Old => self.old.push(column),
            Image::New => self.new.push(column),
        }
    }

    /// Whether a column is omitted from an image.
    pub(super) fn contains(&self, image: Image, column: usize) -> bool {
        let columns = match image {
            Image::Old => &self.old,
            Image::New => &self.new,
        };
        columns.contains(&column)
    }
}
