//! Reasons for a slot's loss, and settings that prevent another loss.

use std::fmt;

use super::SlotState;

/// Reason why the server can no longer decode a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotLoss {
    /// The server removed write-ahead log that the slot needs.
    WalRemoved,
    /// Vacuum on the primary removed system catalog rows that the slot needs.
    ///
    /// At that time the slot was on a standby without `hot_standby_feedback`.
    RowsRemoved,
    /// The primary's `wal_level` was below logical.
    ///
    /// The slot was on a standby then. A primary that has a logical slot does not start with such a
    /// `wal_level`.
    WalLevel,
    /// No session read the slot for `idle_replication_slot_timeout` (PostgreSQL 18).
    Idle,
    /// The server does not state the reason (PostgreSQL 16).
    Unstated,
    /// The slot has no position.
    NoPosition,
    /// A reason of a later version of PostgreSQL.
    Other(String),
}

impl SlotLoss {
    /// The loss that a slot's row states.
    ///
    /// `None` if the slot is usable.
    pub(super) fn of(state: &SlotState) -> Option<Self> {
        if let Some(reason) = &state.invalidation_reason {
            return Some(SlotLoss::from_reason(reason));
        }
        // In PostgreSQL 16, `conflicting` is true for each loss, even for removed log (run on 16.14).
        match (state.wal_status.as_deref(), state.conflicting) {
            (_, Some(true)) => Some(SlotLoss::Unstated),
            (Some("lost"), _) => Some(SlotLoss::WalRemoved),
            _ if state.restart_lsn.is_none() || state.confirmed_flush_lsn.is_none() => {
                Some(SlotLoss::NoPosition)
            }
            _ => None,
        }
    }

    /// The loss that PostgreSQL's `invalidation_reason` names.
    fn from_reason(reason: &str) -> Self {
        match reason {
            "wal_removed" => SlotLoss::WalRemoved,
            "rows_removed" => SlotLoss::RowsRemoved,
            "wal_level_insufficient" => SlotLoss::WalLevel,
            "idle_timeout" => SlotLoss::Idle,
            other => SlotLoss::Other(other.to_owned()),
        }
    }

    /// Advice on the setting that prevents the next loss.
    ///
    /// The text is empty if no setting is known.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            SlotLoss::WalRemoved => ". To prevent the next loss, raise max_slot_wal_keep_size",
            SlotLoss::RowsRemoved => {
                ". To prevent the next loss, set hot_standby_feedback=on on each standby"
            }
            SlotLoss::WalLevel => {
                ". To prevent the next loss, keep rds.logical_replication=1 (wal_level=logical)"
            }
            SlotLoss::Idle => {
                ". To prevent the next loss, raise idle_replication_slot_timeout above the longest pause \
                 between two ticks, or set it to 0"
            }
            SlotLoss::Unstated => {
                ". To prevent the next loss, raise max_slot_wal_keep_size; if the server was a standby, \
                 also set hot_standby_feedback=on on each standby"
            }
            SlotLoss::NoPosition | SlotLoss::Other(_) => "",
        }
    }
}

/// The reason, after PostgreSQL's name for it if there is one.
impl fmt::Display for SlotLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SlotLoss::WalRemoved => "wal_removed: the server removed write-ahead log that the slot needs",
            SlotLoss::RowsRemoved => {
                "rows_removed: vacuum removed rows of the system catalogs that the slot needs"
            }
            SlotLoss::WalLevel => "wal_level_insufficient: the primary ran with a wal_level below logical",
            SlotLoss::Idle => {
                "idle_timeout: no session read the slot for the time of idle_replication_slot_timeout"
            }
            SlotLoss::Unstated => "the server does not state the reason",
            SlotLoss::NoPosition => "the slot has no position",
            SlotLoss::Other(reason) => reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_postgresql_has_its_own_advice() {
        let advice = |reason: &str| SlotLoss::from_reason(reason).advice();
        for (reason, setting) in [
            ("wal_removed", "max_slot_wal_keep_size"),
            ("rows_removed", "hot_standby_feedback"),
            ("wal_level_insufficient", "rds.logical_replication"),
            ("idle_timeout", "idle_replication_slot_timeout"),
        ] {
            assert!(advice(reason).contains(setting), "{reason}");
            assert!(SlotLoss::from_reason(reason).to_string().starts_with(reason));
        }
        assert!(!advice("idle_timeout").contains("max_slot_wal_keep_size"));
        assert_eq!(advice("a_reason_of_tomorrow"), "");
    }
}
