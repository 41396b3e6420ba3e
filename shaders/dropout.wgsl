// uses: shared/index, shared/philox

// y = x scale where the element's uniform number is at least `probability`, else 0. The mask is a pure function of
// (seed, stream, step, call, element), so the gradient makes it again.
//
// Shapes: x, y [count], contiguous; words of which the one at `step_offset` is the step.
// Threads: one per Philox block of 4 elements, 64 to a workgroup.
// Bytes: 8 per element. Operations: 10 rounds of two wide products per 4 elements.

struct Params {
    count: u32,
    probability: f32, // of a 0
    scale: f32,
    step_offset: u32,
    seed_low: u32,
    seed_high: u32,
    stream: u32,
    call: u32, // tells apart several uses of one stream within a step
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> steps: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = workgroup_number(id, count) * 64u + lane;
    let first = block * 4u;
    if first >= params.count {
        return;
    }
    let counter = vec4<u32>(block, steps[params.step_offset], params.call, params.stream);
    let words = philox4x32_10(counter, vec2<u32>(params.seed_low, params.seed_high));
    drop_or_scale(first, words.x);
    drop_or_scale(first + 1u, words.y);
    drop_or_scale(first + 2u, words.z);
    drop_or_scale(first + 3u, words.w);
}

fn drop_or_scale(index: u32, word: u32) {
    if index >= params.count {
        return;
    }
    if unit_interval(word) >= params.probability {
        y[index] = x[index] * params.scale;
    } else {
        y[index] = 0.0;
    }
}
