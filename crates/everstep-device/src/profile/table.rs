//! Kernels by the time that they take.

use std::fmt::Write;

use super::trace::escape;
use super::{Ceilings, Noted, Notes, Subject};

/// What all calls of a kernel by an op add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) calls: u64,
    // Of those whose time is known, as is what follows.
    pub(super) timed: u64,
    pub(super) ns: u64,
    pub(super) bytes: u64,
    pub(super) operations: u64,
}

impl Row {
    pub(super) fn add(&mut self, subject: &Subject, ns: u64) {
        self.calls += 1;
        self.timed += 1;
        self.ns += ns;
        self.bytes += subject.bytes;
        self.operations = self.operations.saturating_add(subject.operations);
    }

    /// So much of something per second; `None` where nothing is known of it.
    fn per_s(&self, amount: u64) -> Option<f64> {
        (amount > 0 && self.ns > 0).then(|| amount as f64 / self.ns as f64 * 1e9)
    }

    pub(super) fn bytes_per_s(&self) -> Option<f64> {
        self.per_s(self.bytes)
    }

    pub(super) fn operations_per_s(&self) -> Option<f64> {
        self.per_s(self.operations)
    }
}

/// A number with a factor, or a dash.
fn cell(value: Option<f64>, factor: f64, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{:.digits$}", value * factor))
}

impl Noted {
    /// The rows, the most expensive first.
    fn sorted(&self) -> Vec<(&(&'static str, &'static str), &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.ns));
        rows
    }

    fn total_ns(&self) -> u64 {
        self.rows.values().map(|row| row.ns).sum()
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}", self.name)?;
        match self.ceilings {
            Some(Ceilings { bytes_per_s, operations_per_s }) => writeln!(
                text,
                "measured ceilings: copy {:.1} GB/s, matmul {:.1} GFLOP/s",
                bytes_per_s / 1e9,
                operations_per_s / 1e9
            )?,
            None => writeln!(text, "ceilings were not measured")?,
        }
        let untimed: u64 = self.rows.values().map(|row| row.calls - row.timed).sum();
        writeln!(text, "times by {}; {untimed} commands without one", self.clock)?;
        writeln!(
            text,
            "{:<28} {:<24} {:>9} {:>11} {:>7} {:>10} {:>9} {:>8} {:>10} {:>9}",
            "kernel", "op", "calls", "total ms", "share", "mean us", "GB/s", "of copy", "GFLOP/s", "of matmul"
        )?;
        let total = self.total_ns().max(1) as f64;
        for ((kernel, op), row) in self.sorted() {
            let mean = (row.timed > 0).then(|| row.ns as f64 / row.timed as f64);
            let ratio = |value: Option<f64>, ceiling: fn(&Ceilings) -> f64| Some(value? / ceiling(&self.ceilings?));
            let (bytes, operations) = (row.bytes_per_s(), row.operations_per_s());
            let percent =
                |ratio: Option<f64>| ratio.map_or_else(|| "-".into(), |ratio| format!("{:.0} %", ratio * 1e2));
            writeln!(
                text,
                "{kernel:<28} {op:<24} {:>9} {:>11.3} {:>7} {:>10} {:>9} {:>8} {:>10} {:>9}",
                row.calls,
                row.ns as f64 / 1e6,
                format!("{:.1} %", row.ns as f64 / total * 1e2),
                cell(mean, 1e-3, 1),
                cell(bytes, 1e-9, 2),
                percent(ratio(bytes, |ceilings| ceilings.bytes_per_s)),
                cell(operations, 1e-9, 2),
                percent(ratio(operations, |ceilings| ceilings.operations_per_s)),
            )?;
        }
        writeln!(text, "{:<28} {:<24} {:>9} {:>11.3}\n", "all", "", self.calls(), total / 1e6)
    }

    fn calls(&self) -> u64 {
        self.rows.values().map(|row| row.calls).sum()
    }

    fn write_json(&self, text: &mut String) -> std::fmt::Result {
        write!(text, "{{\"device\":\"{}\",\"clock\":\"{}\",", escape(&self.name), self.clock)?;
        if let Some(Ceilings { bytes_per_s, operations_per_s }) = self.ceilings {
            write!(
                text,
                "\"ceilings\":{{\"bytes_per_s\":{bytes_per_s:.0},\"operations_per_s\":{operations_per_s:.0}}},"
            )?;
        }
        text.push_str("\"rows\":[");
        for (index, ((kernel, op), row)) in self.sorted().into_iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(
                text,
                "{comma}\n{{\"kernel\":\"{}\",\"op\":\"{}\",\"calls\":{},\"timed\":{},\"ns\":{},\"bytes\":{},\"operations\":{}}}",
                escape(kernel),
                escape(op),
                row.calls,
                row.timed,
                row.ns,
                row.bytes,
                row.operations
            )?;
        }
        text.push_str("]}");
        Ok(())
    }
}

impl Notes {
    /// The table, to be read.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for noted in self.devices.iter().filter(|noted| !noted.rows.is_empty()) {
            // Writing to a string does not fail.
            let _ = noted.write_text(&mut text);
        }
        let _ = writeln!(
            text,
            "{} events in the trace, {} left out of it; {} commands whose times had not come back",
            self.events.len(),
            self.left_out,
            self.awaited()
        );
        text
    }

    /// The table as data, written at `unix_s`.
    pub(super) fn table_json(&self, unix_s: u64) -> String {
        let mut text = format!("{{\"unix_s\":{unix_s},\"devices\":[");
        for (index, noted) in self.devices.iter().filter(|noted| !noted.rows.is_empty()).enumerate() {
            text.push_str(if index > 0 { ",\n" } else { "\n" });
            let _ = noted.write_json(&mut text);
        }
        text.push_str("]}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn subject(kernel: &'static str, bytes: u64, operations: u64) -> Subject {
        Subject { kernel, op: "an \"op\"", bytes, operations, workgroups: [0; 3] }
    }

    #[test]
    fn rates_are_of_the_calls_that_were_timed() {
        let mut row = Row::default();
        row.add(&subject("a", 1000, 4000), 500);
        row.add(&subject("a", 3000, 4000), 1500);
        row.calls += 1;
        assert_eq!((row.calls, row.timed, row.ns), (3, 2, 2000));
        assert_eq!(row.bytes_per_s(), Some(2e9));
        assert_eq!(row.operations_per_s(), Some(4e9));
        assert_eq!(Row { calls: 1, ..Row::default() }.bytes_per_s(), None);
    }

    #[test]
    fn shares_are_of_the_ceilings_and_of_the_total() {
        let (mut slow, mut fast) = (Row::default(), Row::default());
        slow.add(&subject("slow", 4_000_000, 6_000_000), 3_000_000);
        fast.add(&subject("fast", 4_000_000, 0), 1_000_000);
        let ceilings = Some(Ceilings { bytes_per_s: 8e9, operations_per_s: 4e9 });
        let rows = BTreeMap::from([(("fast", "f"), fast), (("slow", "s"), slow)]);
        let noted = Noted { name: "d".into(), clock: "a clock", ceilings, rows, awaited: Default::default() };
        let notes = Notes { devices: vec![noted], ..Notes::default() };
        let text = notes.table();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[4], ["slow", "s", "1", "3.000", "75.0", "%", "3000.0", "1.33", "17", "%", "2.00", "50", "%"]);
        assert_eq!(lines[5], ["fast", "f", "1", "1.000", "25.0", "%", "1000.0", "4.00", "50", "%", "-", "-"]);
        assert_eq!(lines[6], ["all", "2", "4.000"]);
        let json: serde_json::Value = serde_json::from_str(&notes.table_json(7)).unwrap();
        assert_eq!(json["devices"][0]["rows"][0]["operations"], 6_000_000);
        assert_eq!(json["devices"][0]["ceilings"]["bytes_per_s"], 8e9 as u64);
    }
}
