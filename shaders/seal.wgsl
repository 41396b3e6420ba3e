// uses: shared/activation, shared/control

// Ends the update of a committed step: its sums are compared, its loss and norm enter the statistics.
//
// Shapes: the control block, the sums u32 [SUMS], the record u32 [RECORD_WORDS] (control.rs).
// Threads: a single one.
// Bytes: some hundred. Operations: some ten.

struct Params {
    check: u32, // 1: compare the sums
    warm_up: u32,
    window: f32, // steps
    groups: u32,
    advisory: u32, // faults that are told and refuse nothing
}

@group(0) @binding(0) var<storage, read_write> control: array<u32>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@group(0) @binding(2) var<storage, read_write> record: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

fn read_faults() -> u32 {
    let compared = params.check != 0u && control[SUMMED_BEFORE] != 0u;
    var faults = 0u;
    for (var buffer = 0u; buffer < SUMMED; buffer += 1u) {
        let changed = compared && sums[3u * buffer] != sums[SUMS_BEFORE + buffer];
        faults |= select(0u, FAULT_STATE, changed);
        faults |= select(0u, FAULT_UPDATE, sums[3u * buffer + 2u] != 0u);
    }
    return faults;
}

// Takes a value into the running mean and spread at `at`.
fn take(at: u32, value: f32, unit: f32) {
    let samples = control[SAMPLES];
    let weight = max(1.0 / (f32(samples) + 1.0), 1.0 / params.window);
    let mean = bitcast<f32>(control[at]);
    var distance = value - mean;
    if samples >= params.warm_up {
        distance = min(max(distance, -4.0 * unit), 4.0 * unit);
    }
    control[at] = bitcast<u32>(mean + weight * distance);
    let before = bitcast<f32>(control[at + 1u]);
    // The first value has no distance from itself.
    let spread = select(before + weight * (abs(distance) - before), 0.0, samples == 0u);
    control[at + 1u] = bitcast<u32>(spread);
}

fn learn(loss: f32, norm: f32) {
    let samples = control[SAMPLES];
    let level = bitcast<f32>(control[LOSS_LEVEL]);
    let loss_unit = unit_of_loss(bitcast<f32>(control[LOSS_MEAN + 1u]), level);
    let norm_unit = unit_of_norm(bitcast<f32>(control[NORM_MEAN + 1u]));
    if samples < params.warm_up {
        control[LOSS_LEVEL] = bitcast<u32>(level + (abs(loss) - level) / (f32(samples) + 1.0));
    }
    take(LOSS_MEAN, loss, loss_unit);
    take(NORM_MEAN, log_f32(max(norm, 1e-30)), norm_unit);
    for (var group = 0u; group < params.groups; group += 1u) {
        let rate = bitcast<f32>(control[CURRENT + group * ROW_WORDS]);
        control[RATE] = bitcast<u32>(max(bitcast<f32>(control[RATE]), rate));
    }
    control[SAMPLES] = samples + select(0u, 1u, samples < 0xffffffffu);
}

// The step has partly written, and does not count.
fn refuse(faults: u32) {
    control[VERDICT] = VERDICT_HOLD;
    control[HELD] = 1u;
    control[TENTATIVE] = 1u;
    control[COMMITTED] -= 1u;
    record[1] = control[COMMITTED];
    record[2] = VERDICT_HOLD;
    record[3] = faults;
    record[11] = 1u;
}

@compute @workgroup_size(1)
fn main() {
    control[TENTATIVE] = 0u;
    if control[VERDICT] != VERDICT_COMMIT {
        return;
    }
    let faults = read_faults();
    if (faults & ~params.advisory) != 0u {
        refuse(faults);
    } else {
        record[3] |= faults;
        for (var buffer = 0u; buffer < SUMMED; buffer += 1u) {
            sums[SUMS_BEFORE + buffer] = sums[3u * buffer + 1u];
        }
        control[SUMMED_BEFORE] = 1u;
        learn(bitcast<f32>(record[4]), bitcast<f32>(record[5]));
    }
    for (var word = 0u; word < SUMS_BEFORE; word += 1u) {
        sums[word] = 0u;
    }
}
