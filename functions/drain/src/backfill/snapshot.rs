//! A snapshot of the server, and the transactions that it shows.

use std::collections::BTreeSet;
use std::str::FromStr;

/// A `pg_snapshot`, as `pg_current_snapshot()` prints it: `xmin:xmax:xip,…`.
///
/// Its ids have 64 bits and are those of top-level transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// All transactions before this id have ended.
    xmin: u64,
    /// No transaction from this id on had ended.
    xmax: u64,
    /// The transactions between `xmin` and `xmax` that had not ended.
    running: BTreeSet<u64>,
}

impl Snapshot {
    /// Whether the snapshot shows a transaction that has committed in the log.
    ///
    /// `xid` is its id in the log, which has 32 bits. Of the 64-bit ids with these low bits, the one nearest
    /// to `xmax` is meant. PostgreSQL compares ids in the same way.
    pub fn shows(&self, xid: u32) -> bool {
        let xmax_low = self.xmax as u32;
        let distance = i64::from(xid.wrapping_sub(xmax_low) as i32);
        let xid = self.xmax.saturating_add_signed(distance);
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
    fn only_transactions_that_had_ended_are_visible() {
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
    fn transaction_ids_of_the_log_wrap_around() {
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
    fn a_text_of_another_form_is_refused() {
        for text in ["", "1", "1:2", "a:2:", "1:2:x", "1:2:3,x"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
        assert!("1:2:".parse::<Snapshot>().is_ok());
    }
}
