//! The roofline of a profile (Williams, Waterman and Patterson, 2009) as SVG: a kernel's FLOP/s over its FLOPs per byte, under what the
//! device can do; beside it the bytes/s of the kernels that compute little.

use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 640.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 500.0;
/// Where the bars of the right half begin and end.
const BARS: [f64; 2] = [850.0, 1040.0];
const MOST_BARS: usize = 14;

/// A kernel of the profile's table.
struct Point {
    name: String,
    seconds: f64,
    bytes: f64,
    operations: f64,
}

/// What a picture is of.
struct Roofline {
    device: String,
    date: String,
    bytes_per_s: f64,
    operations_per_s: f64,
    points: Vec<Point>,
}

/// A logarithmic scale from values to places.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - self.low) / (self.high - self.low);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// The powers of ten within it.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low.ceil() as i32..=self.high.floor() as i32).map(|power| 10f64.powi(power))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Roofline {
    /// Of one device of a profile's `FILE.table.json`; `None` where it is no such table, or its ceilings are not known.
    fn parse(table: &Value, device: usize) -> Option<Self> {
        let date = everstep::fault::checkpoint::utc(table["unix_s"].as_u64()? * 1000);
        let device = &table["devices"][device];
        let point = |row: &Value| {
            let (kernel, op) = (row["kernel"].as_str()?, row["op"].as_str()?);
            let name = if kernel == op { kernel.into() } else { format!("{kernel}: {op}") };
            let (bytes, operations) = (row["bytes"].as_f64()?, row["operations"].as_f64()?);
            Some(Point { name, seconds: row["ns"].as_f64()? / 1e9, bytes, operations })
        };
        let points = device["rows"].as_array()?.iter().filter_map(point);
        Some(Self {
            device: device["device"].as_str()?.into(),
            date,
            bytes_per_s: device["ceilings"]["bytes_per_s"].as_f64()?,
            operations_per_s: device["ceilings"]["operations_per_s"].as_f64()?,
            points: points.filter(|point| point.seconds > 0.0 && point.bytes > 0.0).collect(),
        })
    }

    fn total(&self) -> f64 {
        self.points.iter().map(|point| point.seconds).sum()
    }

    fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        svg += &text(LEFT, 24.0, "font-size=\"16\" font-weight=\"bold\"", "Roofline");
        svg += &text(LEFT, 44.0, "", &format!("{}, {}", self.device, self.date));
        let ceilings = format!(
            "measured ceilings: copy {:.1} GB/s, matmul of 1,024 rows {:.0} GFLOP/s",
            self.bytes_per_s / 1e9,
            self.operations_per_s / 1e9
        );
        svg += &text(LEFT, 62.0, "fill=\"#666\"", &ceilings);
        svg += &self.plot();
        svg += &self.bars();
        svg + "</svg>\n"
    }

    /// The kernels that compute, as circles whose areas are their shares of the time.
    fn plot(&self) -> String {
        let computing = || self.points.iter().filter(|point| point.operations > 0.0);
        let best = computing().map(|point| point.operations / point.seconds).fold(self.operations_per_s, f64::max);
        let worst =
            computing().map(|point| point.operations / point.seconds).fold(self.operations_per_s / 1e3, f64::min);
        let across = Scale { low: -1.0, high: 3.5, from: LEFT, to: RIGHT };
        let upwards = Scale { low: worst.log10() - 0.2, high: best.log10() + 0.3, from: BOTTOM, to: TOP };
        let mut svg = axes(&across, &upwards);
        let ridge = self.operations_per_s / self.bytes_per_s;
        // Where the roof enters the picture.
        let start = (10f64.powf(upwards.low) / self.bytes_per_s).max(10f64.powf(across.low));
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}H{RIGHT}\" fill=\"none\" stroke=\"#c0392b\" stroke-width=\"2\"/>",
            across.place(start),
            upwards.place(start * self.bytes_per_s),
            across.place(ridge),
            upwards.place(self.operations_per_s)
        );
        let total = self.total();
        let mut labels: Vec<(f64, f64)> = Vec::new();
        for point in computing() {
            let (x, y) =
                (across.place(point.operations / point.bytes), upwards.place(point.operations / point.seconds));
            let radius = (point.seconds / total).sqrt() * 26.0 + 2.5;
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"#2980b9\" fill-opacity=\"0.45\" stroke=\"#1f618d\"/>"
            );
            // A label goes where no other is, or down a line.
            let mut at = y + 4.0;
            while labels.iter().any(|(left, top)| (left - x).abs() < 170.0 && (top - at).abs() < 13.0) {
                at += 13.0;
            }
            labels.push((x, at));
            let share = format!("{} {:.0} %", point.name, point.seconds / total * 1e2);
            let (side, place) = if x > RIGHT - 150.0 { ("end", x - radius - 4.0) } else { ("start", x + radius + 4.0) };
            svg += &text(place, at, &format!("text-anchor=\"{side}\" font-size=\"11\""), &share);
        }
        svg
    }

    /// The kernels of which only bytes are known, by their time.
    fn bars(&self) -> String {
        let mut moving: Vec<_> = self.points.iter().filter(|point| point.operations == 0.0).collect();
        moving.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let (from, to) = (BARS[0], BARS[1]);
        let most = moving.iter().map(|point| point.bytes / point.seconds).fold(self.bytes_per_s, f64::max);
        let long = |rate: f64| (to - from) * rate / most;
        let mut svg =
            text(from - 170.0, TOP - 8.0, "font-weight=\"bold\"", "bytes/s of the others (share of the time)");
        for (index, point) in moving.iter().take(MOST_BARS).enumerate() {
            let (y, rate) = (TOP + 14.0 + 28.0 * index as f64, point.bytes / point.seconds);
            let name = format!("{} {:.0} %", point.name, point.seconds / self.total() * 1e2);
            svg += &text(from - 6.0, y + 11.0, "text-anchor=\"end\" font-size=\"11\"", &name);
            let length = long(rate).max(0.5);
            let _ = writeln!(
                svg,
                "<rect x=\"{from}\" y=\"{y}\" width=\"{length:.1}\" height=\"16\" fill=\"#27ae60\" fill-opacity=\"0.6\"/>"
            );
            svg += &text(from + 4.0, y + 12.0, "font-size=\"10\"", &format!("{:.1} GB/s", rate / 1e9));
        }
        let x = from + long(self.bytes_per_s);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#c0392b\" stroke-width=\"2\"/>");
        svg + &text(x, BOTTOM + 16.0, "text-anchor=\"middle\" fill=\"#c0392b\"", "copy")
    }
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>\n", escape(text))
}

fn axes(across: &Scale, upwards: &Scale) -> String {
    let mut svg = String::new();
    let mut grid = String::new();
    for tick in across.ticks() {
        let x = across.place(tick);
        let _ = write!(grid, "M{x:.1} {TOP}V{BOTTOM}");
        svg += &text(x, BOTTOM + 16.0, "text-anchor=\"middle\"", &format!("{tick}"));
    }
    for tick in upwards.ticks() {
        let y = upwards.place(tick);
        let _ = write!(grid, "M{LEFT} {y:.1}H{RIGHT}");
        svg += &text(LEFT - 6.0, y + 4.0, "text-anchor=\"end\"", &format!("{}", tick / 1e9));
    }
    let _ = writeln!(svg, "<path d=\"{grid}\" stroke=\"#ddd\"/>");
    svg += &text(f64::midpoint(LEFT, RIGHT), BOTTOM + 38.0, "text-anchor=\"middle\"", "FLOPs per byte");
    let middle = f64::midpoint(TOP, BOTTOM);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\"");
    svg + &text(18.0, middle, &turned, "GFLOP/s")
}

/// The picture of one device of a profile's table; `None` where it is no such table, or its ceilings are not known.
pub fn svg(table: &Value, device: usize) -> Option<String> {
    Roofline::parse(table, device).map(|roofline| roofline.to_svg())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_table_becomes_a_picture_and_anything_else_nothing() {
        let table = serde_json::json!({"unix_s": 951_827_696u64, "devices": [{
            "device": "cpu: <one> & two",
            "ceilings": {"bytes_per_s": 1e10, "operations_per_s": 1e11},
            "rows": [
                {"kernel": "matmul", "op": "matmul", "ns": 3_000_000, "bytes": 10_000_000, "operations": 200_000_000},
                {"kernel": "pointwise", "op": "add", "ns": 1_000_000, "bytes": 8_000_000, "operations": 0},
                {"kernel": "gate", "op": "gate", "ns": 0, "bytes": 0, "operations": 0},
            ],
        }]});
        let picture = svg(&table, 0).unwrap();
        for part in ["&lt;one&gt; &amp; two", "2000-02-29", "matmul 75 %", "pointwise: add 25 %", "8.0 GB/s"] {
            assert!(picture.contains(part), "{part}\n{picture}");
        }
        assert_eq!(picture.matches("<circle").count(), 1);
        assert!(svg(&table, 1).is_none() && svg(&Value::Null, 0).is_none());
    }
}
