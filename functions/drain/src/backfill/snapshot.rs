//! What a server's snapshot shows: which transactions are visible in it.

use std::collections::BTreeSet;
use std::str::FromStr;

/// A `pg_snapshot`, as `pg_current_snapshot()` prints it: `xmin:xmax:xip,…`, ids of 64 bits, top-level
/// transactions only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// All before this are over.
    xmin: u64,
    /// All from this on had not ended, or not begun.
    xmax: u64,
    /// Those between that had not ended.
    running: BTreeSet<u64>,
}

impl Snapshot {
    /// Whether a transaction is visible that is known to have been committed. `xid` is its id in the log, 32
    /// bits: it belongs to the ids that are nearest to this snapshot, as PostgreSQL itself takes it.
    pub fn shows(&self, xid: u32) -> bool {
        let near = self.xmax as u32;
        let ahead = i64::from(xid.wrapping_sub(near) as i32);
        let xid = self.xmax.saturating_add_signed(ahead);
        xid < self.xmin || (xid < self.xmax && !self.running.contains(&xid))
    }
}

impl FromStr for Snapshot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next()?.parse().ok();
        let (xmin, xmax) = (number().ok_or(())?, number().ok_or(())?);
        let running = parts.next().ok_or(())?.split(',').filter(|xid| !xid.is_empty());
        let running = running.map(|xid| xid.parse().map_err(drop));
        Ok(Snapshot {
            xmin,
            xmax,
            running: running.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_ended_is_visible_and_what_ran_or_came_later_is_not() {
        let snapshot: Snapshot = "100:110:103,107".parse().unwrap();
        for (xid, shown) in [
            (3, true),
            (99, true),
            (100, true),
            (103, false),
            (106, true),
            (107, false),
            (109, true),
            (110, false),
            (5000, false),
        ] {
            assert_eq!(snapshot.shows(xid), shown, "{xid}");
        }
    }

    #[test]
    fn ids_of_the_log_wrap_around() {
        let epoch = 1u64 << 32;
        let snapshot: Snapshot = format!("{}:{}:{}", epoch - 5, epoch + 5, epoch + 2)
            .parse()
            .unwrap();
        for (xid, shown) in [
            (u32::MAX - 100, true),
            (u32::MAX - 1, true),
            (1, true),
            (2, false),
            (4, true),
            (5, false),
            (900, false),
        ] {
            assert_eq!(snapshot.shows(xid), shown, "{xid}");
        }
    }

    #[test]
    fn what_is_no_snapshot_is_none() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "1:2:3,x"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
        assert!("1:2:".parse::<Snapshot>().is_ok());
    }
}
