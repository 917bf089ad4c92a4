//! The figures, beside their goals: for people, or as JSON for programs.

use serde_json::{Map, Value, json};

use super::{Failure, options::Options};

/// What a figure is to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At least this part of what fio gets.
    Ratio(f64),
    /// The engine's figure at most.
    AtMost(f64),
}

/// What a figure counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    /// Operations of so many bytes, shown as bytes in a second.
    Bytes {
        each: u32,
    },
    /// Operations in a second.
    Operations,
    Microseconds,
    /// Bytes, one by one.
    Count,
    /// Millions of bytes.
    Megabytes,
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
pub(crate) struct Row {
    key: &'static str,
    title: String,
    unit: Unit,
    goal: Option<Goal>,
    engine: Vec<f64>,
    /// As many values, or none.
    raw: Vec<f64>,
}

impl Row {
    pub(crate) fn new(key: &'static str, title: &str, unit: Unit) -> Self {
        Self {
            key,
            title: title.to_owned(),
            unit,
            goal: None,
            engine: Vec::new(),
            raw: Vec::new(),
        }
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// What one round gave.
    pub(crate) fn add(&mut self, engine: f64, raw: Option<f64>) {
        self.engine.push(engine);
        self.raw.extend(raw);
    }

    /// Round by round, so that what slows both does not show.
    fn ratios(&self) -> Vec<f64> {
        let rounds = self.engine.iter().zip(&self.raw);
        rounds.map(|(engine, raw)| engine / raw).collect()
    }

    fn cells(&self) -> [String; 6] {
        let show = |values: &[f64]| median(values).map(|value| self.unit.show(value));
        let ratios = self.ratios();
        let spread = match ratios.as_slice() {
            [] => None,
            some => {
                let low = some.iter().copied().fold(f64::INFINITY, f64::min);
                let high = some.iter().copied().fold(0.0, f64::max);
                Some(format!("{low:.2}-{high:.2}"))
            }
        };
        let goal = self.goal.map(|goal| match goal {
            Goal::Ratio(ratio) => format!("ratio >= {ratio:.2}"),
            Goal::AtMost(value) => format!("<= {}", self.unit.show(value)),
        });
        [
            self.title.clone(),
            show(&self.engine).unwrap_or_default(),
            show(&self.raw).unwrap_or_default(),
            median(&ratios).map_or(String::new(), |ratio| format!("{ratio:.2}")),
            spread.unwrap_or_default(),
            goal.unwrap_or_default(),
        ]
    }

    fn json(&self) -> Value {
        let (unit, factor) = self.unit.name();
        let value = |values: &[f64]| median(values).map(|value| value * factor);
        let (kind, goal) = match self.goal {
            None => (None, None),
            Some(Goal::Ratio(ratio)) => (Some("ratio_at_least"), Some(ratio)),
            Some(Goal::AtMost(value)) => (Some("engine_at_most"), Some(value)),
        };
        json!({
            "unit": unit,
            "engine": value(&self.engine),
            "raw": value(&self.raw),
            "ratio": median(&self.ratios()),
            "ratios": self.ratios(),
            "goal": goal,
            "goal_kind": kind,
        })
    }
}

/// The middle value; `None` when there is none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (
        sorted.get(sorted.len().checked_sub(1)? / 2)?,
        sorted.get(sorted.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

#[allow(clippy::print_stdout, reason = "the result of the program")]
pub(crate) fn print(options: &Options, fio: &str, rows: &[Row]) -> Result<(), Failure> {
    if options.json {
        let figures: Map<String, Value> = rows
            .iter()
            .map(|row| (row.key.to_owned(), row.json()))
            .collect();
        let object = json!({
            "fio": fio,
            "size_bytes": options.size,
            "seconds": options.seconds,
            "rounds": options.rounds,
            "chunks": options.chunks,
            "figures": figures,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    let head = ["", "engine", "raw", "ratio", "spread", "goal"].map(str::to_owned);
    let lines: Vec<[String; 6]> = [head]
        .into_iter()
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..6).filter_map(width).collect();
    for line in &lines {
        let [title, figures @ .., goal] = line;
        let mut text = format!("{title:<width$}", width = widths[0]);
        for (figure, width) in figures.iter().zip(&widths[1..]) {
            text.push_str(&format!("  {figure:>width$}"));
        }
        println!("{}", format!("{text}  {goal}").trim_end());
    }
    println!();
    println!(
        "raw is {fio} with io_uring and O_DIRECT on a file of {} MiB; {} rounds of {} s each, in turns.",
        options.size >> 20,
        options.rounds,
        options.seconds
    );
    println!("A ratio is the median of the rounds' ratios, spread their least and greatest.");
    Ok(())
}
