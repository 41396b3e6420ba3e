// uses: shared/activation, shared/attention, shared/attention_score, shared/float_bits, shared/index, shared/tree

// y = softmax(q k^T scale + mask) v, and per query the logarithm of the sum of its powers. A query that sees nothing, or only
// minus infinity, gives 0 and plus infinity.
//
// Shapes: q [.., T, D], k [.., S, D], v [.., S, E], mask [.., T, S], y [.., T, E], of any strides; sums [batch T]; E <= 256.
// Threads: one workgroup of 64 per query; each thread has one key of a chunk of 64, then every 64th column of the values.
// The softmax is taken online: a chunk with a larger score scales down what was there.
// Bytes: k and v once per query, from the cache: 4 S (D + E). Operations: 2 S (D + E).

const LANES: u32 = 64u;
const GROUP: u32 = 64u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> params: AttentionParams;

var<workgroup> powers: array<f32, LANES>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = workgroup_number(id, count);
    if number >= params.batches * params.queries {
        return;
    }
    let index = number / params.queries;
    let query = number % params.queries;
    let lowest = f32_from_bits(0xff800000u);
    var largest = lowest;
    var total = 0.0;
    var columns = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
    for (var first = 0u; first < params.keys; first += LANES) {
        if params.causal == 1u && first > query {
            break;
        }
        let key = first + lane;
        var own = lowest;
        if sees(query, key) {
            own = score(index, query, key);
        }
        let next = max_f32(largest, tree_max(lane, own));
        var power = 0.0;
        var correction = 1.0;
        if bitcast<u32>(next) != 0xff800000u {
            power = exp_f32(own - next);
            correction = exp_f32(largest - next);
        }
        total = total * correction + tree_sum(lane, power);
        largest = next;
        powers[lane] = power;
        workgroupBarrier();
        let chunk = min(LANES, params.keys - first);
        for (var part = 0u; part < 4u; part++) {
            let column = part * LANES + lane;
            if column < params.value_width {
                var sum = columns[part] * correction;
                for (var at = 0u; at < chunk; at++) {
                    if sees(query, first + at) {
                        sum += powers[at] * v[row_start(index, first + at, params.v, params.v_batch) + column * params.v.z];
                    }
                }
                columns[part] = sum;
            }
        }
        workgroupBarrier();
    }
    let nothing = bitcast<u32>(largest) == 0xff800000u;
    let start = row_start(index, query, params.y, params.y_batch);
    for (var part = 0u; part < 4u; part++) {
        let column = part * LANES + lane;
        if column < params.value_width {
            var value = 0.0;
            if !nothing {
                value = columns[part] / total;
            }
            y[start + column * params.y.z] = value;
        }
    }
    if lane == 0u {
        var sum = f32_from_bits(0x7f800000u);
        if !nothing {
            sum = largest + log_f32(total);
        }
        sums[number] = sum;
    }
}
