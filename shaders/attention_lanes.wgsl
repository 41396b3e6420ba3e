// uses: shared/activation, shared/attention, shared/attention_lanes, shared/float_bits, shared/index

// attention.wgsl for drivers in software: neither workgroup memory nor barriers. y = softmax(q k^T scale + mask) v, and per query the
// logarithm of the sum of its powers. A query that sees nothing, or only minus infinity, gives 0 and plus infinity.
//
// Shapes: q [.., T, D], k [.., S, D], v [.., S, E], mask [.., T, S], y [.., T, E]; sums [batch T]; D, E <= 64.
// Threads: one per query, 64 to a workgroup, subgroups of 8 within one matrix. The softmax is taken online, 8 keys at a time.
// Bytes: k and v once per 8 queries, from the cache: S (D + E) / 2. Operations: 2 S (D + E), and an exponential per score.

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> params: AttentionParams;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let number = workgroup_number(id, count) * 8u + subgroup;
    let parts = parts_of(params.queries);
    let index = min(number / parts, params.batches - 1u);
    let first_query = number % parts * 8u;
    let own_query = first_query + lane;
    let query = min(own_query, params.queries - 1u);
    var rows: array<vec4<f32>, MOST>;
    var columns: array<vec4<f32>, MOST>;
    let start = row_start(index, query, params.q, params.q_batch) / 4u;
    for (var quad = 0u; quad < params.width / 4u; quad++) {
        put(&rows, quad, q[start + quad]);
    }
    let lowest = f32_from_bits(0xff800000u);
    var largest = lowest;
    var total = 0.0;
    // The same for all lanes: none is ever alone at a broadcast.
    var end = params.keys;
    if params.causal == 1u {
        end = min(end, first_query + 8u);
    }
    for (var first = 0u; first < end; first += 8u) {
        let key = min(first + lane, params.keys - 1u);
        let key_start = row_start(index, key, params.k, params.k_batch) / 4u;
        var scores = array<f32, 8>();
        for (var quad = 0u; quad < params.width / 4u; quad++) {
            add_dots(&scores, pick(&rows, quad), k[key_start + quad]);
        }
        var next = largest;
        for (var at = 0u; at < 8u; at++) {
            let seen = sees(query, first + at);
            let score = finished_score(index, query, min(first + at, params.keys - 1u), scores[at]);
            scores[at] = select(lowest, score, seen);
            next = max_f32(next, scores[at]);
        }
        let nothing = bitcast<u32>(next) == 0xff800000u;
        let correction = select(exp_f32(largest - next), 1.0, nothing);
        total *= correction;
        for (var at = 0u; at < 8u; at++) {
            scores[at] = select(exp_f32(scores[at] - next), 0.0, nothing || !sees(query, first + at));
            total += scores[at];
        }
        largest = next;
        let value_start = row_start(index, key, params.v, params.v_batch) / 4u;
        for (var quad = 0u; quad < params.value_width / 4u; quad++) {
            let others = all_vec4(v[value_start + quad]);
            var sum = pick(&columns, quad) * correction;
            for (var at = 0u; at < 8u; at++) {
                // What is not seen does not count even where it is not finite.
                sum += scores[at] * select(vec4<f32>(), others[at], sees(query, first + at));
            }
            put(&columns, quad, sum);
        }
    }
    if own_query >= params.queries || number >= params.batches * parts {
        return;
    }
    let nothing = bitcast<u32>(largest) == 0xff800000u;
    let target_start = row_start(index, query, params.y, params.y_batch) / 4u;
    for (var quad = 0u; quad < params.value_width / 4u; quad++) {
        y[target_start + quad] = select(pick(&columns, quad) / total, vec4<f32>(), nothing);
    }
    sums[index * params.queries + query] = select(largest + log_f32(total), f32_from_bits(0x7f800000u), nothing);
}
