//! Whether a chunk's history is linearizable: whether its operations can be put in one order that respects which ended before
//! which began, and in which every read sees what the writes before it left.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of what was tried
//! ("Testing for linearizability", 2017). An operation whose outcome is unknown may stand anywhere after its beginning,
//! or nowhere.

use std::collections::BTreeSet;

use crate::history::{Action, CELLS, Operation, Outcome, Row};

/// Steps after which a search gives up.
const STEPS_MAX: usize = 3_000_000;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// With the longest order that could be made, by index.
    Violated(Vec<usize>),
    /// The search became too long to say.
    Undecided,
}

/// What is left of an operation's choices while it is searched for.
struct Frame {
    row: Row,
    candidates: Vec<usize>,
}

/// Judges the operations on one chunk.
pub(crate) fn judge(operations: &[Operation]) -> Verdict {
    Search::new(operations).run()
}

struct Search<'a> {
    operations: &'a [Operation],
    /// By index; which stand in the order so far.
    placed: Vec<bool>,
    order: Vec<usize>,
    longest: Vec<usize>,
    tried: BTreeSet<(Vec<bool>, Row)>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        Self {
            operations,
            placed: vec![false; operations.len()],
            order: Vec::new(),
            longest: Vec::new(),
            tried: BTreeSet::new(),
        }
    }

    fn run(mut self) -> Verdict {
        let row = [0; CELLS];
        let candidates = self.candidates();
        let mut frames = vec![Frame { row, candidates }];
        for _ in 0..STEPS_MAX {
            if self.is_complete() {
                return Verdict::Linearizable;
            }
            let Some(frame) = frames.last_mut() else {
                return Verdict::Violated(self.longest);
            };
            let Some(next) = frame.candidates.pop() else {
                frames.pop();
                if let Some(last) = self.order.pop() {
                    self.placed[last] = false;
                }
                continue;
            };
            let Some(row) = after(&self.operations[next], frame.row) else {
                continue;
            };
            self.placed[next] = true;
            if !self.tried.insert((self.placed.clone(), row)) {
                self.placed[next] = false;
                continue;
            }
            self.order.push(next);
            if self.order.len() > self.longest.len() {
                self.longest.clone_from(&self.order);
            }
            let candidates = self.candidates();
            frames.push(Frame { row, candidates });
        }
        Verdict::Undecided
    }

    /// Every operation that ended has its place.
    fn is_complete(&self) -> bool {
        let mut operations = self.operations.iter().zip(&self.placed);
        operations.all(|(operation, placed)| *placed || operation.ended.is_none())
    }

    /// Who may be next: nobody that still has no place ended before it began. The one that ended first comes last, so that
    /// it is tried first; those that may never happen are tried at the end.
    fn candidates(&self) -> Vec<usize> {
        let open = || (0..self.operations.len()).filter(|index| !self.placed[*index]);
        let ends = open().filter_map(|index| self.operations[index].ended);
        let first_end = ends.min().unwrap_or(u64::MAX);
        let mut candidates: Vec<usize> = open()
            .filter(|index| self.operations[*index].begun < first_end)
            .collect();
        candidates.sort_by_key(|index| {
            let ended = self.operations[*index].ended.unwrap_or(u64::MAX);
            std::cmp::Reverse((ended, *index))
        });
        candidates
    }
}

/// The row after an operation; `None` when a read saw something else.
fn after(operation: &Operation, mut row: Row) -> Option<Row> {
    match operation.action {
        Action::Write {
            first,
            count,
            value,
        } => row[first..first + count].fill(value),
        Action::Truncate { cells } => row[cells..].fill(0),
        Action::Remove => row.fill(0),
        Action::Read => {
            if operation.outcome != Outcome::Saw(row) {
                return None;
            }
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, begun: u64, ended: Option<u64>) -> Operation {
        let action = Action::Write {
            first: 0,
            count: CELLS,
            value,
        };
        let outcome = if ended.is_some() {
            Outcome::Done
        } else {
            Outcome::Unknown
        };
        operation(action, outcome, begun, ended)
    }

    fn read(value: u64, begun: u64, ended: u64) -> Operation {
        operation(
            Action::Read,
            Outcome::Saw([value; CELLS]),
            begun,
            Some(ended),
        )
    }

    fn operation(action: Action, outcome: Outcome, begun: u64, ended: Option<u64>) -> Operation {
        Operation {
            client: 0,
            chunk: 0,
            action,
            outcome,
            begun,
            ended,
        }
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        let overlapping = [
            write(1, 1, Some(10)),
            write(2, 2, Some(9)),
            read(2, 3, 4),
            read(1, 5, 6),
        ];
        assert_eq!(judge(&overlapping), Verdict::Linearizable);
    }

    #[test]
    fn a_value_that_came_back_is_a_violation() {
        let back = [
            write(1, 1, Some(2)),
            write(2, 3, Some(4)),
            read(2, 5, 6),
            read(1, 7, 8),
        ];
        assert!(matches!(judge(&back), Verdict::Violated(order) if order.len() == 3));
    }

    #[test]
    fn a_lost_write_is_a_violation() {
        assert_ne!(
            judge(&[write(1, 1, Some(2)), read(0, 3, 4)]),
            Verdict::Linearizable
        );
    }

    #[test]
    fn an_unknown_write_happens_late_or_never_but_once() {
        let late = [
            write(1, 1, None),
            write(2, 2, Some(3)),
            read(2, 4, 5),
            read(1, 6, 7),
        ];
        assert_eq!(judge(&late), Verdict::Linearizable);
        assert_eq!(judge(&late[..3]), Verdict::Linearizable);
        let twice = [
            write(1, 1, None),
            read(1, 2, 3),
            write(2, 4, Some(5)),
            read(2, 6, 7),
            read(1, 8, 9),
        ];
        assert!(matches!(judge(&twice), Verdict::Violated(_)));
    }

    #[test]
    fn a_read_of_half_a_write_is_a_violation() {
        let half = operation(Action::Read, Outcome::Saw([1, 1, 0, 0]), 2, Some(3));
        assert_ne!(judge(&[write(1, 1, Some(4)), half]), Verdict::Linearizable);
    }
}
