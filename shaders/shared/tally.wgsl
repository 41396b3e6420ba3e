// uses: shared/control, shared/float_bits

// What an update reads and writes, as sums by which the next step sees whether the memory between them kept it.
//
// A kernel that uses this declares `const TALLIES: u32`, how many buffers it updates, `params` with `start` and `count`,
// `control`, `sums: array<atomic<u32>>`, `const STRIDE: u32` and `fn update(index: u32)`, which stores what
// `accept` gives it for STRIDE elements from `index` on. Its main calls `update_all`, 256 threads to a workgroup. All sums
// are of integers and wrap, so that their order does not show.

// Calls of `update` per thread, so that few threads add to the sums.
override TIMES: u32 = 8u;

// Per buffer: bits read, bits written, results that were not finite.
var<private> tallies: array<u32, 12>;
var<workgroup> group_tallies: array<atomic<u32>, 12>;

// The bits of neighbours are turned by different amounts, so that no bit of all elements has the same weight.
fn turned(index: u32, value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let by = index & 31u;
    return (bits << by) | (bits >> ((32u - by) & 31u));
}

// What element `index` stores in place of `before`: `after`, unless that is not finite.
fn accept(buffer: u32, index: u32, before: f32, after: f32) -> f32 {
    let refused = is_non_finite(after);
    let kept = select(after, before, refused);
    tallies[3u * buffer] += turned(index, before);
    tallies[3u * buffer + 1u] += turned(index, kept);
    tallies[3u * buffer + 2u] += select(0u, 1u, refused);
    return kept;
}

// As accept, for four neighbours from element `index` on.
fn accept_quad(buffer: u32, index: u32, before: vec4<f32>, after: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        accept(buffer, index, before.x, after.x),
        accept(buffer, index + 1u, before.y, after.y),
        accept(buffer, index + 2u, before.z, after.z),
        accept(buffer, index + 3u, before.w, after.w),
    );
}

fn publish_tallies(lane: u32) {
    if lane < 12u {
        atomicStore(&group_tallies[lane], 0u);
    }
    workgroupBarrier();
    for (var word = 0u; word < 3u * TALLIES; word += 1u) {
        atomicAdd(&group_tallies[word], tallies[word]);
    }
    workgroupBarrier();
    if lane < 3u * TALLIES {
        atomicAdd(&sums[lane], atomicLoad(&group_tallies[lane]));
    }
}

// Every element of a workgroup's part of the window; nothing where the verdict is not COMMIT.
fn update_all(workgroup: u32, lane: u32) {
    if control[VERDICT] != VERDICT_COMMIT {
        return;
    }
    let first = workgroup * 256u * TIMES + lane;
    for (var part = 0u; part < TIMES; part += 1u) {
        let number = (first + part * 256u) * STRIDE;
        if number < params.count {
            update(params.start + number);
        }
    }
    publish_tallies(lane);
}
