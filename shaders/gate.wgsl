// uses: shared/activation, shared/control, shared/float_bits

// Judges the step: counts the attempt, writes the verdict, the clipping factor, the groups' current schedule rows and a
// record; counts a committed step; clears the status.
//
// Shapes: partials u32 [blocks + buffer_blocks, 4] of health.wgsl, of gradients and then of pending buffers, loss (bits),
// the control block (control.rs), the status, the record u32 [RECORD_WORDS].
// Threads: a single one, so that the blocks are added in their order.
// Bytes: 16 per block, and some hundred. Operations: a few per block.

struct Params {
    blocks: u32,
    loss_offset: u32,
    groups: u32,
    on_fault: u32, // verdict on a faulty step
    max_norm: f32, // 0: no clipping
    buffer_blocks: u32,
    // The largest f32 turns each of these off.
    loss_limit: f32,
    score: f32,
    log_ratio: f32,
    rate_ratio: f32,
    warm_up: u32,
    advisory: u32, // faults that are told and refuse nothing
    scale_interval: u32, // 0: no loss scale
    scale_growth: f32,
    scale_backoff: f32,
    scale_most: f32,
}

@group(0) @binding(0) var<storage, read> partials: array<u32>;
@group(0) @binding(1) var<storage, read> losses: array<u32>;
@group(0) @binding(2) var<storage, read_write> control: array<u32>;
@group(0) @binding(3) var<storage, read_write> status: array<u32>;
@group(0) @binding(4) var<storage, read_write> record: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

// What the gradients are, over all blocks.
struct Gradients {
    norm: f32,
    largest: u32, // bits of the largest finite magnitude
    non_finite: u32,
}

fn read_gradients(scale: f32) -> Gradients {
    var squares = 0.0;
    var largest = 0u;
    var non_finite = 0u;
    for (var block = 0u; block < params.blocks; block += 1u) {
        squares += bitcast<f32>(partials[4u * block]);
        largest = max(largest, partials[4u * block + 1u]);
        // Saturating.
        non_finite += min(partials[4u * block + 2u], ~non_finite);
    }
    return Gradients(sqrt_f32(squares) / scale, largest, non_finite);
}

// Whether an element of the pending buffers is not finite.
fn buffers_are_bad() -> bool {
    var bad = 0u;
    for (var block = params.blocks; block < params.blocks + params.buffer_blocks; block += 1u) {
        bad |= partials[4u * block + 2u];
    }
    return bad != 0u;
}

fn read_faults(gradients: Gradients, loss: u32) -> u32 {
    let row = control[COMMITTED] - control[START];
    let overflow = gradients.non_finite == 0u && is_non_finite(gradients.norm);
    return select(0u, FAULT_GRADIENT, gradients.non_finite > 0u)
        | select(0u, FAULT_LOSS, is_non_finite_bits(loss))
        | select(0u, FAULT_NORM, overflow)
        | select(0u, FAULT_DATA, status[0] != 0u)
        | select(0u, FAULT_SCHEDULE, row >= control[ROWS])
        | select(0u, FAULT_HELD, control[HELD] != 0u)
        | select(0u, FAULT_BUFFER, buffers_are_bad());
}

// How far above the statistics a step lies: zeros before they have their first steps.
struct Scores {
    loss: f32,
    norm: f32,
    excess: f32, // of the norm's logarithm over its mean
}

fn read_scores(loss: f32, norm: f32) -> Scores {
    if control[SAMPLES] < params.warm_up {
        return Scores(0.0, 0.0, 0.0);
    }
    let unit = unit_of_loss(bitcast<f32>(control[LOSS_MEAN + 1u]), bitcast<f32>(control[LOSS_LEVEL]));
    let excess = log_f32(max(norm, 1e-30)) - bitcast<f32>(control[NORM_MEAN]);
    let norm_score = excess / unit_of_norm(bitcast<f32>(control[NORM_MEAN + 1u]));
    return Scores((loss - bitcast<f32>(control[LOSS_MEAN])) / unit, norm_score, excess);
}

// What the statistics and the limits say of a loss and a norm that are finite.
fn read_spikes(loss: f32, scores: Scores) -> u32 {
    let score_of_norm = params.score >= 3.4028234e38 || scores.norm > params.score;
    return select(0u, FAULT_LOSS_LIMIT, loss > params.loss_limit)
        | select(0u, FAULT_LOSS_SPIKE, scores.loss > params.score)
        | select(0u, FAULT_NORM_SPIKE, scores.excess > params.log_ratio && score_of_norm);
}

// Whether the largest learning rate of the step's schedule rows is far above those before.
fn rate_is_high() -> bool {
    let row = control[COMMITTED] - control[START];
    let highest = bitcast<f32>(control[RATE]);
    // There is nothing to compare with before a step has learned.
    let off = params.rate_ratio >= 3.4028234e38 || highest == 0.0;
    if off || row >= control[ROWS] {
        return false;
    }
    let start = CURRENT + params.groups * ROW_WORDS * (row + 1u);
    var high = false;
    for (var group = 0u; group < params.groups; group += 1u) {
        high = high || bitcast<f32>(control[start + group * ROW_WORDS]) > params.rate_ratio * highest;
    }
    return high;
}

// PyTorch's clip_grad_norm_: max_norm / (norm + 1e-6), at most 1; 1 for a norm that is NaN, where no step commits.
fn clip_of(norm: f32) -> f32 {
    if params.max_norm <= 0.0 || is_nan(norm) {
        return 1.0;
    }
    if is_non_finite(norm) {
        return 0.0;
    }
    return min(params.max_norm / (norm + 1e-6), 1.0);
}

fn scale_of_loss() -> f32 {
    return select(bitcast<f32>(control[LOSS_SCALE]), 1.0, params.scale_interval == 0u);
}

// What becomes of the loss scale after a step that overflowed or committed.
fn rescale(overflow: bool) {
    let scale = scale_of_loss();
    let good = select(control[GOOD] + 1u, 0u, overflow);
    let grows = good >= params.scale_interval;
    var next = select(scale, min(scale * params.scale_growth, params.scale_most), grows);
    if overflow {
        next = max(scale * params.scale_backoff, 1.0);
    }
    control[LOSS_SCALE] = bitcast<u32>(next);
    control[GOOD] = select(good, 0u, grows);
}

// The step commits: its schedule row becomes the current one, and the count goes on.
fn commit() {
    let words = params.groups * ROW_WORDS;
    let schedule = CURRENT + words;
    let start = schedule + (control[COMMITTED] - control[START]) * words;
    for (var word = 0u; word < words; word += 1u) {
        control[CURRENT + word] = control[start + word];
    }
    control[COMMITTED] += 1u;
}

@compute @workgroup_size(1)
fn main() {
    let scale = scale_of_loss();
    let gradients = read_gradients(scale);
    let loss = losses[params.loss_offset];
    var faults = read_faults(gradients, loss);
    var scores = Scores(0.0, 0.0, 0.0);
    // What is not finite has no place in a distribution.
    if (faults & (FAULT_GRADIENT | FAULT_LOSS | FAULT_NORM)) == 0u {
        scores = read_scores(bitcast<f32>(loss), gradients.norm);
        faults |= read_spikes(bitcast<f32>(loss), scores);
    }
    faults |= select(0u, FAULT_RATE, rate_is_high());
    let refusing = faults & ~params.advisory;
    let refused = refusing != 0u;
    let overflow = scale > 1.0 && refused && (refusing & ~(FAULT_GRADIENT | FAULT_NORM)) == 0u;
    let held = control[HELD] != 0u || (refused && !overflow && params.on_fault == VERDICT_HOLD);
    var verdict = VERDICT_COMMIT;
    if refused {
        verdict = select(VERDICT_REJECT, VERDICT_HOLD, held);
    }
    let attempt = control[ATTEMPT] + 1u;
    control[HELD] = select(0u, 1u, held);
    control[ATTEMPT] = attempt;
    control[VERDICT] = verdict;
    control[CLIP] = bitcast<u32>(clip_of(gradients.norm) / scale);
    control[NORM] = bitcast<u32>(gradients.norm);
    if verdict == VERDICT_COMMIT {
        commit();
    }
    if params.scale_interval > 0u && (overflow || verdict == VERDICT_COMMIT) {
        rescale(overflow);
    }
    for (var word = 0u; word < RECORD_WORDS; word += 1u) {
        record[word] = 0u;
    }
    record[0] = attempt;
    record[1] = control[COMMITTED];
    record[2] = verdict;
    record[3] = faults;
    record[4] = loss;
    record[5] = bitcast<u32>(gradients.norm);
    record[6] = bitcast<u32>(bitcast<f32>(gradients.largest) / scale);
    record[7] = gradients.non_finite;
    record[8] = status[0];
    record[9] = status[1];
    record[10] = status[2];
    record[12] = bitcast<u32>(scores.loss);
    record[13] = bitcast<u32>(scores.norm);
    for (var word = 0u; word < 4u; word += 1u) {
        status[word] = 0u;
    }
}
