//! What is kept of a run for its post-mortem.

use std::collections::VecDeque;

use everstep_tensor::Record;
use serde::Serialize;

use crate::{Event, Place, Told};

/// Records that are kept whole.
const RECORDS: usize = 200;
/// Events that are kept.
const EVENTS: usize = 1000;
/// Points of the curve at most; a curve that is full keeps every other one.
const POINTS: usize = 2000;

/// A point of the loss curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The attempt.
    pub attempt: u32,
    /// The step.
    pub step: u64,
    /// The loss; `None` where it was not finite.
    pub loss: Option<f32>,
    /// The gradient norm; `None` where it was not finite.
    pub norm: Option<f32>,
    /// Whether the step was refused: such points are kept.
    pub refused: bool,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) records: VecDeque<(Record, Place)>,
    pub(crate) points: Vec<Point>,
    pub(crate) events: VecDeque<Told>,
    // Attempts from a point to the next.
    stride: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self { records: VecDeque::new(), points: Vec::new(), events: VecDeque::new(), stride: 1 }
    }
}

impl Log {
    pub(crate) fn tell(&mut self, attempt: u64, events: &[Event]) {
        let told = |event: &Event| Told { attempt, text: event.to_string(), event: event.clone() };
        self.events.extend(events.iter().map(told));
        self.events.drain(..self.events.len().saturating_sub(EVENTS));
    }

    pub(crate) fn take(&mut self, record: &Record, place: Place) {
        if self.records.len() == RECORDS {
            self.records.pop_front();
        }
        self.records.push_back((*record, place));
        let refused = record.faults != 0;
        if !refused && !record.attempt.is_multiple_of(self.stride) {
            return;
        }
        let finite = |value: f32| value.is_finite().then_some(value);
        let (loss, norm) = (finite(record.loss), finite(record.norm));
        self.points.push(Point { attempt: record.attempt, step: place.step, loss, norm, refused });
        if self.points.len() >= POINTS {
            self.stride *= 2;
            let (stride, mut kept) = (self.stride, 0);
            self.points.retain(|point| {
                // Refused ones are few, or else they are thinned like the others.
                kept += usize::from(point.refused);
                (point.refused && kept < POINTS / 4) || point.attempt.is_multiple_of(stride)
            });
        }
    }
}
