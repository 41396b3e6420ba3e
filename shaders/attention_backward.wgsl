// uses: shared/activation, shared/attention, shared/attention_score, shared/index

// The gradients of q, k and v, all in one buffer: with the probabilities p = e^(score - sum) and delta = sum(g y) of a query,
// ds = p (g v^T - delta) scale, dq = ds k, dk = ds^T q, dv = p^T g. No atomics: a query sums over its keys, a key over its
// queries, in their order.
//
// Shapes: as attention.wgsl, and g like y; D, E <= 256.
// Threads: one workgroup of 64 per query, and behind those one per key; each thread has one partner of a chunk of 64, then
// every 64th column.
// Bytes: k and v once per query, q and g once per key, from the cache. Operations: about 8 T S (D + E) in all.

const LANES: u32 = 64u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read> y: array<f32>;
@group(0) @binding(5) var<storage, read> sums: array<f32>;
@group(0) @binding(6) var<storage, read> g: array<f32>;
@group(0) @binding(7) var<storage, read_write> gradients: array<f32>;
@group(1) @binding(0) var<uniform> params: AttentionParams;

var<workgroup> probabilities: array<f32, LANES>;
var<workgroup> slopes: array<f32, LANES>;

// The probability of a key that a query sees, and the slope of its score.
fn probability_and_slope(index: u32, query: u32, key: u32) -> vec2<f32> {
    let g_start = row_start(index, query, params.g, params.g_batch);
    let y_start = row_start(index, query, params.y, params.y_batch);
    let v_start = row_start(index, key, params.v, params.v_batch);
    var delta = 0.0;
    var dp = 0.0;
    for (var at = 0u; at < params.value_width; at++) {
        let gradient = g[g_start + at * params.g.z];
        delta += gradient * y[y_start + at * params.y.z];
        dp += gradient * v[v_start + at * params.v.z];
    }
    let p = exp_f32(score(index, query, key) - sums[index * params.queries + query]);
    return vec2<f32>(p, p * (dp - delta) * params.scale);
}

fn query_gradient(index: u32, query: u32, lane: u32) {
    var columns = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
    for (var first = 0u; first < params.keys; first += LANES) {
        if sees(query, first + lane) {
            slopes[lane] = probability_and_slope(index, query, first + lane).y;
        }
        workgroupBarrier();
        let chunk = min(LANES, params.keys - first);
        for (var part = 0u; part < 4u; part++) {
            let column = part * LANES + lane;
            if column < params.width {
                for (var at = 0u; at < chunk; at++) {
                    if sees(query, first + at) {
                        columns[part] += slopes[at] * k[row_start(index, first + at, params.k, params.k_batch) + column * params.k.z];
                    }
                }
            }
        }
        workgroupBarrier();
    }
    let start = row_start(index, query, params.dq, params.dq_batch);
    for (var part = 0u; part < 4u; part++) {
        let column = part * LANES + lane;
        if column < params.width {
            gradients[start + column * params.dq.z] = columns[part];
        }
    }
}

fn key_gradients(index: u32, key: u32, lane: u32) {
    var keys = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
    var values = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
    for (var first = 0u; first < params.queries; first += LANES) {
        if first + lane < params.queries && sees(first + lane, key) {
            let both = probability_and_slope(index, first + lane, key);
            probabilities[lane] = both.x;
            slopes[lane] = both.y;
        }
        workgroupBarrier();
        let chunk = min(LANES, params.queries - first);
        for (var part = 0u; part < 4u; part++) {
            let column = part * LANES + lane;
            for (var at = 0u; at < chunk; at++) {
                let query = first + at;
                if sees(query, key) && column < params.width {
                    keys[part] += slopes[at] * q[row_start(index, query, params.q, params.q_batch) + column * params.q.z];
                }
                if sees(query, key) && column < params.value_width {
                    values[part] += probabilities[at] * g[row_start(index, query, params.g, params.g_batch) + column * params.g.z];
                }
            }
        }
        workgroupBarrier();
    }
    let key_start = row_start(index, key, params.dk, params.dk_batch);
    let value_start = row_start(index, key, params.dv, params.dv_batch);
    for (var part = 0u; part < 4u; part++) {
        let column = part * LANES + lane;
        if column < params.width {
            gradients[key_start + column * params.dk.z] = keys[part];
        }
        if column < params.value_width {
            gradients[value_start + column * params.dv.z] = values[part];
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let number = workgroup_number(id, count);
    let queries = params.batches * params.queries;
    if number < queries {
        query_gradient(number / params.queries, number % params.queries, lane);
    } else if number - queries < params.batches * params.keys {
        key_gradients((number - queries) / params.keys, (number - queries) % params.keys, lane);
    }
}
