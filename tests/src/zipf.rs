//! Skewed random keys, as in real data: a few keys have half of all changes, most are rare.

/// Zipf distribution over ranks: the frequency of rank r is proportional to 1/r.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// Cumulated weights up to each rank.
    cumulated: Vec<f64>,
}

impl Zipf {
    /// Distribution over `ranks` ranks, at least one.
    pub fn of(ranks: usize) -> Self {
        let weights = (1..=ranks.max(1)).map(|rank| 1.0 / rank as f64);
        let cumulated = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            cumulated: cumulated.collect(),
        }
    }

    /// A random rank, counted from 0.
    pub fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let total = self.cumulated.last().copied().unwrap_or_default();
        let drawn = random.f64() * total;
        self.cumulated
            .partition_point(|cumulated| *cumulated <= drawn)
            .min(self.cumulated.len() - 1)
    }
}
