// uses: shared/activation, shared/float_bits, shared/index, shared/status

// Per row: loss = log sum e^x - x[label], and what of it the gradient uses again: the largest logit and
// sum e^(x - largest), apart because their log-sum-exp is rounded to the size of the logits. A label outside 0..classes
// is reported; such a row is NaN.
//
// Shapes: logits [rows, classes] contiguous, labels u32 [rows] with offset and stride; loss [rows], sums [rows, 2].
// Threads: one per row, 64 to a workgroup, four logits at a time: llvmpipe ends a thread's loops after 65,535 rounds,
// without a word, which leaves room for 100,000 classes there.
// Bytes: the logits twice (the second time from the cache): 8 per element at most. Operations: one exponential per
// element, one logarithm per row.

// Terms added up before such partial sums are added up.
const STRETCH: u32 = 128u;

struct Params {
    rows: u32,
    classes: u32,
    label_offset: u32,
    label_stride: u32,
    code: u32, // by which this op reports
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

// Four of a row's logits. Past the row's end there is minus infinity, which changes neither maximum nor sum.
fn four_logits(at: u32, end: u32) -> vec4<f32> {
    var values = vec4<f32>(f32_from_bits(0xff800000u));
    values.x = logits[at];
    if at + 1u < end {
        values.y = logits[at + 1u];
    }
    if at + 2u < end {
        values.z = logits[at + 2u];
    }
    if at + 3u < end {
        values.w = logits[at + 3u];
    }
    return values;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = workgroup_number(id, count) * 64u + lane;
    if row >= params.rows {
        return;
    }
    let label = labels[params.label_offset + row * params.label_stride];
    if label >= params.classes {
        report(params.code, label, params.classes);
        let nan = f32_from_bits(0x7fc00000u);
        loss[row] = nan;
        sums[2u * row] = nan;
        sums[2u * row + 1u] = nan;
        return;
    }
    let start = row * params.classes;
    let end = start + params.classes;
    var largest = f32_from_bits(0xff800000u);
    for (var at = start; at < end; at += 4u) {
        let x = four_logits(at, end);
        largest = max_f32(largest, max_f32(max_f32(x.x, x.y), max_f32(x.z, x.w)));
    }
    var total = 0.0;
    var at = start;
    while at < end {
        var partial = 0.0;
        for (var term = 0u; term < STRETCH && at < end; term += 4u) {
            let x = four_logits(at, end) - largest;
            partial += (exp_f32(x.x) + exp_f32(x.y)) + (exp_f32(x.z) + exp_f32(x.w));
            at += 4u;
        }
        total += partial;
    }
    sums[2u * row] = largest;
    sums[2u * row + 1u] = total;
    loss[row] = log_f32(total) + (largest - logits[start + label]);
}
