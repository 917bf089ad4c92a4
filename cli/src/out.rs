//! Where output goes: results to standard output, warnings and errors to standard error with the
//! program's name. A reader that has gone away (`penstock status | head`) is not an error.

use std::io::Write as _;

use serde::Serialize;

/// Prints one line of a result or of progress.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody listens any more: nothing to tell them.
    let _gone = writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .is_err();
}

/// Prints one line of progress where standard output is for the result alone.
pub(crate) fn progress(line: &str) {
    // Nobody listens: nothing to tell them.
    let _gone = writeln!(std::io::stderr().lock(), "{line}").is_err();
}

/// Prints one line to standard error.
pub(crate) fn warn(line: &str) {
    // Without standard error there is no place left to complain.
    let _gone = writeln!(std::io::stderr().lock(), "penstock: {line}").is_err();
}

/// Prints a value as JSON.
///
/// # Errors
/// When the value cannot be written as JSON: a bug of its definition.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table for people: no frame, so that it can be cut with the usual tools.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        say(line.trim_end());
    }
}

/// Bytes in the largest binary unit that leaves at least one digit before the point.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && count / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    let tenths = u128::from(count) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_fitting_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
    }
}
