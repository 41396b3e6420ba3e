// The words of the control block, the twin of control.rs.

const ATTEMPT: u32 = 0u;
const COMMITTED: u32 = 1u;
const VERDICT: u32 = 2u;
const HELD: u32 = 3u;
const CLIP: u32 = 4u;
const NORM: u32 = 5u;
const START: u32 = 6u;
const ROWS: u32 = 7u;
const SAMPLES: u32 = 8u;
const LOSS_MEAN: u32 = 9u;
const NORM_MEAN: u32 = 11u;
const LOSS_LEVEL: u32 = 13u;
const TENTATIVE: u32 = 14u;
const SUMMED_BEFORE: u32 = 15u;
const RATE: u32 = 16u;
const LOSS_SCALE: u32 = 17u;
const GOOD: u32 = 18u;
const CURRENT: u32 = 24u;
const ROW_WORDS: u32 = 4u;
const RECORD_WORDS: u32 = 16u;
const SUMMED: u32 = 4u;
const SUMS_BEFORE: u32 = 12u;

const VERDICT_COMMIT: u32 = 0u;
const VERDICT_REJECT: u32 = 1u;
const VERDICT_HOLD: u32 = 2u;

const FAULT_GRADIENT: u32 = 1u;
const FAULT_LOSS: u32 = 2u;
const FAULT_NORM: u32 = 4u;
const FAULT_DATA: u32 = 8u;
const FAULT_SCHEDULE: u32 = 16u;
const FAULT_HELD: u32 = 32u;
const FAULT_BUFFER: u32 = 64u;
const FAULT_LOSS_LIMIT: u32 = 128u;
const FAULT_LOSS_SPIKE: u32 = 256u;
const FAULT_NORM_SPIKE: u32 = 512u;
const FAULT_STATE: u32 = 1024u;
const FAULT_UPDATE: u32 = 2048u;
const FAULT_RATE: u32 = 4096u;

// sqrt(pi / 2): the standard deviation over the mean distance, of a normal distribution.
const SPREAD: f32 = 1.2533141;

// The units of scores: a standard deviation, but at least a tenth of the loss's level and a half of the norm's logarithm.
fn unit_of_loss(spread: f32, level: f32) -> f32 {
    return max(max(spread * SPREAD, level * 0.25), 1.1754944e-38);
}

fn unit_of_norm(spread: f32) -> f32 {
    return max(spread * SPREAD, 0.5);
}
