//! A series of the run as SVG.

use crate::Point;

/// The picture, in units of the drawing, and the space around the plot.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 44.0;
/// Labels of incidents stand in so many rows above the plot, and are left out where there is no room.
const LABEL_ROWS: usize = 3;
/// Values that span more than this factor are drawn on a logarithmic scale.
const LOG_FROM: f64 = 20.0;

/// What a picture is of.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: &'a [Point],
    pub(crate) value: fn(&Point) -> Option<f32>,
    /// Whether the scale is logarithmic whatever the values are.
    pub(crate) log: bool,
    /// Attempts at which incidents began, with their labels.
    pub(crate) incidents: &'a [(u64, String)],
}

/// A linear or logarithmic scale from values to places on the picture.
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// The place of a value; one beyond the scale is put at its edge.
    fn place(&self, value: f64) -> f64 {
        let part = (self.inner(value) - self.low) / (self.high - self.low);
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn inner(&self, value: f64) -> f64 {
        if !self.log {
            value
        } else if value > 0.0 {
            value.log10()
        } else {
            self.low
        }
    }

    /// Round values, about `wanted` of them.
    fn ticks(&self, wanted: f64) -> Vec<f64> {
        let step = round_step((self.high - self.low) / wanted);
        if self.log && step >= 1.0 {
            return multiples(step.round(), self.low, self.high).map(|power| 10f64.powf(power)).collect();
        }
        let of_power = |power: f64| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powf(power));
        if self.log {
            let (low, high) = (10f64.powf(self.low), 10f64.powf(self.high));
            let ticks: Vec<_> = multiples(1.0, self.low.floor(), self.high).flat_map(of_power).collect();
            let ticks: Vec<_> = ticks.into_iter().filter(|tick| (low..=high).contains(tick)).collect();
            // Less than a factor of two may hold no such value, and looks linear.
            return match ticks.len() {
                0..=2 => multiples(round_step((high - low) / wanted), low, high).collect(),
                _ => ticks,
            };
        }
        multiples(step, self.low, self.high).collect()
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|round| *round >= step * 0.999).unwrap_or(10.0 * power)
}

fn multiples(step: f64, low: f64, high: f64) -> impl Iterator<Item = f64> {
    let first = (low / step - 1e-9).ceil();
    // No scale has a hundred ticks; a step that is lost in the values' last digits would have no end.
    (0..100).map(move |index| (first + f64::from(index)) * step).take_while(move |tick| *tick <= high + step * 1e-9)
}

/// A tick's text: as short as tells the ticks apart.
fn label(tick: f64) -> String {
    let magnitude = tick.abs();
    if magnitude != 0.0 && !(1e-4..1e6).contains(&magnitude) {
        let text = format!("{tick:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    // Of a multiple that is 0.30000000000000004.
    let text = format!("{tick:.7}");
    text.trim_end_matches('0').trim_end_matches('.').replace("-0", if magnitude < 1e-9 { "0" } else { "-0" })
}

/// A text, with what SVG says of its place.
fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>\n", crate::html::escape(text))
}

/// A path, or nothing. Where the style is not there, as in a mail, it is a line all the same and no area.
fn path(class: &str, steps: &str) -> String {
    if steps.is_empty() {
        return String::new();
    }
    format!("<path class=\"{class}\" fill=\"none\" stroke=\"currentColor\" d=\"{steps}\"/>\n")
}

impl Curve<'_> {
    /// The picture; `None` where there is no value to show.
    pub(crate) fn to_svg(&self) -> Option<String> {
        let across = self.across()?;
        let upwards = self.upwards()?;
        let name = crate::html::escape(self.name);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{name} by attempt\">\n");
        svg += &self.axes(&across, &upwards);
        svg += &self.marks_of_incidents(&across);
        svg += &self.line(&across, &upwards);
        svg += &self.marks_of_faults(&across, &upwards);
        Some(svg + "</svg>\n")
    }

    fn across(&self) -> Option<Scale> {
        let attempts = || self.points.iter().map(|point| f64::from(point.attempt));
        let (low, high) = (attempts().reduce(f64::min)?, attempts().reduce(f64::max)?);
        let half = if low == high { 0.5 } else { 0.0 };
        Some(Scale { log: false, low: low - half, high: high + half, from: LEFT, to: WIDTH - RIGHT })
    }

    /// The scale of the values. Faulty steps do not widen it, or one of them would flatten all others.
    fn upwards(&self) -> Option<Scale> {
        let of = |faulty: bool| {
            let points = self.points.iter().filter(move |point| faulty || !point.refused);
            points.filter_map(|point| (self.value)(point)).map(f64::from).filter(|value| value.is_finite())
        };
        let healthy: Vec<_> = of(false).collect();
        let values = if healthy.is_empty() { of(true).collect() } else { healthy };
        let positive = || values.iter().copied().filter(|value| *value > 0.0);
        let (mut low, mut high) = (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        let log = high > 0.0 && (self.log || low > 0.0 && high / low > LOG_FROM);
        if log {
            (low, high) = (positive().fold(high, f64::min).log10(), high.log10());
        }
        // A little room, and some for values that are all the same.
        let least = if log { 0.1 } else { (high.abs() * 0.1).max(1e-30) };
        let room = ((high - low) * 0.05).max(if high - low < least * 0.01 { least } else { 0.0 });
        Some(Scale { log, low: low - room, high: high + room, from: HEIGHT - BOTTOM, to: TOP })
    }

    fn axes(&self, across: &Scale, upwards: &Scale) -> String {
        let (mut grid, mut texts) = (String::new(), String::new());
        for tick in upwards.ticks(5.0) {
            let y = upwards.place(tick);
            grid += &format!("M{LEFT} {y:.1}H{:.1}", WIDTH - RIGHT);
            texts += &text(LEFT - 8.0, y + 4.0, "text-anchor=\"end\"", &label(tick));
        }
        // There are no parts of an attempt.
        for tick in across.ticks(8.0).into_iter().filter(|tick| tick.fract() == 0.0) {
            let x = across.place(tick);
            grid += &format!("M{x:.1} {:.1}v5", HEIGHT - BOTTOM);
            texts += &text(x, HEIGHT - BOTTOM + 18.0, "text-anchor=\"middle\"", &label(tick));
        }
        grid += &format!("M{LEFT} {TOP}V{:.1}H{:.1}", HEIGHT - BOTTOM, WIDTH - RIGHT);
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        texts += &text(middle, HEIGHT - 6.0, "text-anchor=\"middle\"", "attempts (steps that were tried)");
        let scale = if upwards.log { "log scale" } else { "linear scale" };
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 14 {middle:.1})\"");
        path("grid", &grid) + &texts + &text(14.0, middle, &turned, &format!("{} ({scale})", self.name))
    }

    /// Where incidents began: a line each, and a label where there is room.
    fn marks_of_incidents(&self, across: &Scale) -> String {
        let (mut lines, mut labels) = (String::new(), String::new());
        let mut ends = [f64::NEG_INFINITY; LABEL_ROWS];
        for (attempt, label) in self.incidents {
            let x = across.place(*attempt as f64);
            lines += &format!("M{x:.1} {TOP}V{:.1}", HEIGHT - BOTTOM);
            // About the width of a character, and a gap.
            let width = label.chars().count() as f64 * 7.0 + 8.0;
            let left = (x - width / 2.0).min(WIDTH - RIGHT - width).max(LEFT);
            if let Some(row) = ends.iter().position(|end| *end <= left) {
                ends[row] = left + width;
                let y = TOP - 8.0 - 16.0 * row as f64;
                labels += &text(left + width / 2.0, y, "class=\"incident\" text-anchor=\"middle\"", label);
            }
        }
        path("incident", &lines) + &labels
    }

    /// The healthy steps. After a fault or a rewind the line begins anew.
    fn line(&self, across: &Scale, upwards: &Scale) -> String {
        let (mut steps, mut before) = (String::new(), None);
        for point in self.points {
            let value = (self.value)(point).filter(|value| value.is_finite() && !point.refused);
            let goes_on = before.is_some_and(|before| before < point.step);
            before = value.map(|_| point.step);
            let Some(value) = value else { continue };
            let (x, y) = (across.place(point.attempt.into()), upwards.place(value.into()));
            // A part of one point is seen as well: a line of no length has round ends.
            steps += &if goes_on { format!("L{x:.1} {y:.1}") } else { format!("M{x:.1} {y:.1}h0") };
        }
        path("curve", &steps)
    }

    /// The faulty steps; at the upper edge those that are not finite or beyond the scale.
    fn marks_of_faults(&self, across: &Scale, upwards: &Scale) -> String {
        let mark = |point: &Point| {
            let value = (self.value)(point).map_or(f64::INFINITY, f64::from);
            let y = if value.is_finite() { upwards.place(value) } else { upwards.to };
            format!("M{:.1} {y:.1}h0", across.place(point.attempt.into()))
        };
        path("faulty", &self.points.iter().filter(|point| point.refused).map(mark).collect::<String>())
    }
}
