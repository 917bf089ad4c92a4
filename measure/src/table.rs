//! The figures, beside their goals: for people, or as JSON for programs.
//!
//! A row has a value of ours for each round, of fio for the same round (*raw*), and perhaps of another file system
//! (*peer*).

use serde_json::{Map, Value, json};

/// What a figure is to reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this part of what fio gets.
    Ratio(f64),
    /// At least so many times what the other file system gets.
    OfPeer(f64),
    /// Our figure at most.
    AtMost(f64),
}

/// What a figure counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Operations of so many bytes, shown as bytes in a second.
    Bytes {
        /// Of one operation.
        each: u32,
    },
    /// Operations in a second.
    Operations,
    /// Millionths of a second.
    Microseconds,
    /// Bytes, one by one.
    Count,
    /// Millions of bytes.
    Megabytes,
    /// A time.
    Seconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Bytes { each } => format!("{:.0} MiB/s", value * f64::from(each) / 1048576.0),
            Unit::Operations => format!("{value:.0}/s"),
            Unit::Microseconds => format!("{value:.1} us"),
            Unit::Count => format!("{value:.0} B"),
            Unit::Megabytes => format!("{value:.0} MB"),
            Unit::Seconds => format!("{value:.2} s"),
        }
    }

    /// The name in JSON, and what a value is multiplied by for it.
    fn name(self) -> (&'static str, f64) {
        match self {
            Unit::Bytes { each } => ("bytes_per_second", f64::from(each)),
            Unit::Operations => ("per_second", 1.0),
            Unit::Microseconds => ("microseconds", 1.0),
            Unit::Count => ("bytes", 1.0),
            Unit::Megabytes => ("megabytes", 1.0),
            Unit::Seconds => ("seconds", 1.0),
        }
    }
}

/// One figure, with a value for each round.
#[derive(Clone, Debug)]
pub struct Row {
    key: String,
    title: String,
    unit: Unit,
    goal: Option<Goal>,
    /// What fio's value is divided by for the ratio: it wrote so many times less.
    share: f64,
    ours: Vec<f64>,
    /// As many values, or none.
    raw: Vec<f64>,
    /// As many values, or none.
    peer: Vec<f64>,
}

impl Row {
    /// Without values; `key` is its name in JSON.
    pub fn new(key: &str, title: &str, unit: Unit) -> Self {
        Self {
            key: key.to_owned(),
            title: title.to_owned(),
            unit,
            goal: None,
            share: 1.0,
            ours: Vec::new(),
            raw: Vec::new(),
            peer: Vec::new(),
        }
    }

    /// What it is to reach.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The ratio is to this part of what fio gets: our side does the work so many times.
    #[must_use]
    pub fn share(mut self, copies: u32) -> Self {
        self.share = f64::from(copies);
        self
    }

    /// What one round gave.
    pub fn add(&mut self, ours: f64, raw: Option<f64>) {
        self.ours.push(ours);
        self.raw.extend(raw);
    }

    /// What the same round gave on the other file system.
    pub fn add_peer(&mut self, peer: Option<f64>) {
        self.peer.extend(peer);
    }

    /// Round by round, so that what slows both does not show.
    fn ratios(&self) -> Vec<f64> {
        let rounds = self.ours.iter().zip(&self.raw);
        rounds.map(|(ours, raw)| ours * self.share / raw).collect()
    }

    fn peer_ratios(&self) -> Vec<f64> {
        let rounds = self.ours.iter().zip(&self.peer);
        rounds.map(|(ours, peer)| ours / peer).collect()
    }

    fn cells(&self, with_peer: bool) -> Vec<String> {
        let show = |values: &[f64]| median(values).map(|value| self.unit.show(value));
        let mut cells = vec![
            show(&self.ours).unwrap_or_default(),
            show(&self.raw).unwrap_or_default(),
        ];
        cells.extend(ratio_cells(&self.ratios()));
        if with_peer {
            cells.push(show(&self.peer).unwrap_or_default());
            cells.extend(ratio_cells(&self.peer_ratios()));
        }
        let goal = self.goal.map(|goal| match goal {
            Goal::Ratio(ratio) => format!("ratio >= {ratio:.2}"),
            Goal::OfPeer(ratio) => format!(">= {ratio:.0} x peer"),
            Goal::AtMost(value) => format!("<= {}", self.unit.show(value)),
        });
        cells.push(goal.unwrap_or_default());
        cells
    }

    fn json(&self, ours: &str) -> Value {
        let (unit, factor) = self.unit.name();
        let value = |values: &[f64]| median(values).map(|value| value * factor);
        let (kind, goal) = match self.goal {
            None => (None, None),
            Some(Goal::Ratio(ratio)) => (Some("ratio_at_least".to_owned()), Some(ratio)),
            Some(Goal::OfPeer(ratio)) => (Some("peer_ratio_at_least".to_owned()), Some(ratio)),
            Some(Goal::AtMost(value)) => (Some(format!("{ours}_at_most")), Some(value)),
        };
        let mut object = json!({
            "unit": unit,
            "raw": value(&self.raw),
            "ratio": median(&self.ratios()),
            "ratios": self.ratios(),
            "goal": goal,
            "goal_kind": kind,
        });
        object[ours] = json!(value(&self.ours));
        if !self.peer.is_empty() {
            object["peer"] = json!(value(&self.peer));
            object["peer_ratio"] = json!(median(&self.peer_ratios()));
            object["peer_ratios"] = json!(self.peer_ratios());
        }
        object
    }
}

/// The median of ratios and how far they are apart.
fn ratio_cells(ratios: &[f64]) -> [String; 2] {
    let Some(ratio) = median(ratios) else {
        return [String::new(), String::new()];
    };
    let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let high = ratios.iter().copied().fold(0.0, f64::max);
    [format!("{ratio:.2}"), format!("{low:.2}-{high:.2}")]
}

/// The middle value; `None` when there is none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (
        sorted.get(sorted.len().checked_sub(1)? / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

/// The figures for programs: an object with one entry for each row. `ours` names our side.
pub fn json(ours: &str, rows: &[Row]) -> Map<String, Value> {
    let figure = |row: &Row| (row.key.clone(), row.json(ours));
    rows.iter().map(figure).collect()
}

/// The figures for people. `ours` names our side.
pub fn text(ours: &str, rows: &[Row]) -> String {
    let with_peer = rows.iter().any(|row| !row.peer.is_empty());
    let mut head = vec![ours, "raw", "ratio", "spread"];
    if with_peer {
        head.extend(["peer", "ratio", "spread"]);
    }
    head.push("goal");
    let head = head.into_iter().map(str::to_owned).collect();
    let mut lines: Vec<(&str, Vec<String>)> = vec![("", head)];
    lines.extend(rows.iter().map(|row| (&*row.title, row.cells(with_peer))));
    let title_width = lines.iter().map(|(title, _)| title.len()).max();
    let title_width = title_width.unwrap_or_default();
    let widths: Vec<usize> = (0..lines[0].1.len())
        .map(|column| lines.iter().map(|(_, cells)| cells[column].len()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for (title, cells) in &lines {
        let mut line = format!("{title:<title_width$}");
        let (goal, figures) = cells.split_last().expect("the goal is always there");
        for (figure, width) in figures.iter().zip(&widths) {
            line.push_str(&format!("  {figure:>width$}"));
        }
        line.push_str("  ");
        line.push_str(goal);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row = Row::new("writes", "writes", Unit::Operations)
            .goal(Goal::Ratio(0.5))
            .share(3);
        for (ours, raw) in [(10.0, 60.0), (10.0, 30.0), (20.0, 80.0)] {
            row.add(ours, Some(raw));
        }
        row
    }

    #[test]
    fn the_ratio_is_that_of_the_rounds_and_not_of_the_medians() {
        let figures = json("ours", &[row()]);
        assert_eq!(figures["writes"]["ours"], 10.0);
        assert_eq!(figures["writes"]["raw"], 60.0);
        assert_eq!(figures["writes"]["ratio"], 0.75);
        let text = text("ours", &[row()]);
        assert!(text.contains("0.75  0.50-1.00  ratio >= 0.50"), "{text}");
        assert!(!text.contains("peer"), "{text}");
    }

    #[test]
    fn a_peer_has_columns_of_its_own() {
        let mut with = row().goal(Goal::OfPeer(4.0));
        with.add_peer(Some(2.0));
        let without = Row::new("x", "x", Unit::Seconds);
        let text = text("ours", &[with.clone(), without]);
        assert!(
            text.contains("2/s   5.00  5.00-5.00  >= 4 x peer"),
            "{text}"
        );
        assert_eq!(json("ours", &[with])["writes"]["peer_ratio"], 5.0);
    }
}
