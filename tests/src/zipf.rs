//! Keys as many data have them: a few are in every second change, most are rare.

/// Zipf's law over so many ranks: the one of rank r is drawn as often as 1/r says.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// The weights up to and with each rank.
    up_to: Vec<f64>,
}

impl Zipf {
    /// Over `ranks` ranks, at least one.
    pub fn of(ranks: usize) -> Self {
        let weights = (1..=ranks.max(1)).map(|rank| 1.0 / rank as f64);
        let up_to = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            up_to: up_to.collect(),
        }
    }

    /// A rank, counted from 0.
    pub fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let all = self.up_to.last().copied().unwrap_or_default();
        let drawn = random.f64() * all;
        self.up_to
            .partition_point(|up_to| *up_to <= drawn)
            .min(self.up_to.len() - 1)
    }
}
