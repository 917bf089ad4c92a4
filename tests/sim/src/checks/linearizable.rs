//! D2, L7: reads and writes of a chunk are linearizable, and with the reads after everything was made whole: nothing that was
//! acknowledged is lost (W11).

use std::ops::Range;

use crate::{
    history::{History, Operation},
    linearize::{Verdict, judge},
};

/// Also returns how many chunks could not be judged.
pub fn check(history: &History, chunks: Range<u32>) -> (Vec<String>, u32) {
    let (mut violations, mut undecided) = (Vec::new(), 0);
    for chunk in chunks {
        let operations = history.of_chunk(chunk);
        match judge(&operations) {
            Verdict::Linearizable => {}
            Verdict::Undecided => undecided += 1,
            Verdict::Violated(order) => {
                let mut text = format!(
                    "chunk {chunk}: no order explains its {} operations; the longest explains {}:",
                    operations.len(),
                    order.len()
                );
                for (index, operation) in operations.iter().enumerate() {
                    let place = order.iter().position(|placed| *placed == index);
                    let Operation {
                        client,
                        action,
                        outcome,
                        begun,
                        ended,
                        ..
                    } = operation;
                    text.push_str(&format!(
                        "\n    place {place:?}, client {client}, {begun} to {ended:?}: {action:?} -> {outcome:?}"
                    ));
                }
                violations.push(text);
            }
        }
    }
    (violations, undecided)
}
