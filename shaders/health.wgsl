// uses: shared/float_bits, shared/index, shared/tree

// Per block of 16,384 gradients (HEALTH_BLOCK of gate.rs): sum of squares, largest finite magnitude, count of
// non-finite values.
//
// Shapes: gradients [count]; partials u32 [blocks, 4]: f32 bits, f32 bits, a count, 0.
// Threads: one workgroup of LANES per block; thread t takes elements t, t + LANES, .. and a tree adds up the threads.
// The other two results are integers, joined by atomics, whose order does not show.
// Bytes: 4 per gradient. Operations: five per gradient.

// Few threads on a driver in software, where barriers are slow.
override LANES: u32 = 256u;
const GROUP: u32 = 256u;
const HEALTH_BLOCK: u32 = 16384u;

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> gradients: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> largest_of_all: atomic<u32>;
var<workgroup> bad_of_all: atomic<u32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = workgroup_number(id, count);
    let start = block * HEALTH_BLOCK;
    if start >= params.count {
        return;
    }
    if lane == 0u {
        atomicStore(&largest_of_all, 0u);
        atomicStore(&bad_of_all, 0u);
    }
    workgroupBarrier();
    let length = min(params.count - start, HEALTH_BLOCK);
    var squares = 0.0;
    var largest = 0u;
    var bad = 0u;
    for (var index = lane; index < length; index += LANES) {
        let value = gradients[start + index];
        squares += value * value;
        // Magnitudes of finite floats order like their bits.
        let bits = bitcast<u32>(value);
        if is_non_finite_bits(bits) {
            bad += 1u;
        } else {
            largest = max(largest, bits & 0x7fffffffu);
        }
    }
    atomicMax(&largest_of_all, largest);
    atomicAdd(&bad_of_all, bad);
    // Its barriers also order the atomics before the loads below.
    let total = tree_sum(lane, squares);
    if lane == 0u {
        partials[4u * block] = bitcast<u32>(total);
        partials[4u * block + 1u] = atomicLoad(&largest_of_all);
        partials[4u * block + 2u] = atomicLoad(&bad_of_all);
        partials[4u * block + 3u] = 0u;
    }
}
