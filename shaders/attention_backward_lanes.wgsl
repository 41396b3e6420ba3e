// uses: shared/activation, shared/attention, shared/attention_lanes, shared/index

// attention_backward.wgsl for drivers in software: neither workgroup memory nor barriers. The gradients of q, k and v, all in one
// buffer: with the probabilities p = e^(score - sum) and delta = sum(g y) of a query, ds = p (g v^T - delta) scale,
// dq = ds k, dk = ds^T q, dv = p^T g. No atomics: a query sums over its keys, a key over its queries, in their order.
//
// Shapes: as attention_lanes.wgsl, and g like y.
// Threads: one per query, and behind those one per key, 64 to a workgroup, subgroups of 8 within one matrix.
// Bytes: k and v once per 8 queries, q, g and y once per 8 keys, from the cache. Operations: about 8 T S (D + E) in all.

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> mask: array<f32>;
@group(0) @binding(4) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> sums: array<f32>;
@group(0) @binding(6) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> gradients: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> params: AttentionParams;

fn query_gradients(index: u32, first_query: u32, lane: u32, exists: bool) {
    let query = min(first_query + lane, params.queries - 1u);
    var rows: array<vec4<f32>, MOST>;
    var slopes: array<vec4<f32>, MOST>;
    var sum: array<vec4<f32>, MOST>;
    let start = row_start(index, query, params.q, params.q_batch) / 4u;
    let g_start = row_start(index, query, params.g, params.g_batch) / 4u;
    let y_start = row_start(index, query, params.y, params.y_batch) / 4u;
    var delta = 0.0;
    for (var quad = 0u; quad < MOST; quad++) {
        if quad < WIDTH {
            rows[quad] = q[start + quad];
        }
        if quad < VALUE_WIDTH {
            slopes[quad] = g[g_start + quad];
            delta += dot(slopes[quad], y[y_start + quad]);
        }
        sum[quad] = vec4<f32>();
    }
    let log_sum = sums[index * params.queries + query];
    var end = select(0u, params.keys, exists);
    if params.causal == 1u {
        end = min(end, first_query + 8u);
    }
    for (var first = 0u; first < end; first += 8u) {
        let key = min(first + lane, params.keys - 1u);
        let key_start = row_start(index, key, params.k, params.k_batch) / 4u;
        let value_start = row_start(index, key, params.v, params.v_batch) / 4u;
        var scores = array<f32, 8>();
        var products = array<f32, 8>();
        var own_keys: array<vec4<f32>, MOST>;
        for (var quad = 0u; quad < MOST; quad++) {
            if quad < WIDTH {
                own_keys[quad] = k[key_start + quad];
                let others = all_vec4(own_keys[quad]);
                for (var at = 0u; at < 8u; at++) {
                    scores[at] += dot(rows[quad], others[at]);
                }
            }
            if quad < VALUE_WIDTH {
                let others = all_vec4(v[value_start + quad]);
                for (var at = 0u; at < 8u; at++) {
                    products[at] += dot(slopes[quad], others[at]);
                }
            }
        }
        for (var at = 0u; at < 8u; at++) {
            let score = finished_score(index, query, min(first + at, params.keys - 1u), scores[at]);
            let p = exp_f32(score - log_sum);
            scores[at] = select(0.0, p * (products[at] - delta) * params.scale, sees(query, first + at));
        }
        for (var quad = 0u; quad < MOST; quad++) {
            if quad < WIDTH {
                let others = all_vec4(own_keys[quad]);
                for (var at = 0u; at < 8u; at++) {
                    // What is not seen does not count even where it is not finite.
                    sum[quad] += scores[at] * select(vec4<f32>(), others[at], sees(query, first + at));
                }
            }
        }
    }
    if !exists || first_query + lane >= params.queries {
        return;
    }
    let target_start = row_start(index, query, params.dq, params.dq_batch) / 4u;
    for (var quad = 0u; quad < MOST; quad++) {
        if quad < WIDTH {
            gradients[target_start + quad] = sum[quad];
        }
    }
}

fn key_gradients(index: u32, first_key: u32, lane: u32, exists: bool) {
    let key = min(first_key + lane, params.keys - 1u);
    var rows: array<vec4<f32>, MOST>;
    var values: array<vec4<f32>, MOST>;
    var row_sum: array<vec4<f32>, MOST>;
    var value_sum: array<vec4<f32>, MOST>;
    let start = row_start(index, key, params.k, params.k_batch) / 4u;
    let value_start = row_start(index, key, params.v, params.v_batch) / 4u;
    for (var quad = 0u; quad < MOST; quad++) {
        if quad < WIDTH {
            rows[quad] = k[start + quad];
        }
        if quad < VALUE_WIDTH {
            values[quad] = v[value_start + quad];
        }
        row_sum[quad] = vec4<f32>();
        value_sum[quad] = vec4<f32>();
    }
    var begin = 0u;
    if params.causal == 1u {
        begin = first_key;
    }
    let end = select(0u, params.queries, exists);
    for (var first = begin; first < end; first += 8u) {
        let query = min(first + lane, params.queries - 1u);
        let query_start = row_start(index, query, params.q, params.q_batch) / 4u;
        let g_start = row_start(index, query, params.g, params.g_batch) / 4u;
        let y_start = row_start(index, query, params.y, params.y_batch) / 4u;
        let log_sums = all_f32(sums[index * params.queries + query]);
        var scores = array<f32, 8>();
        var products = array<f32, 8>();
        var own_queries: array<vec4<f32>, MOST>;
        var own_gradients: array<vec4<f32>, MOST>;
        var own_delta = 0.0;
        for (var quad = 0u; quad < MOST; quad++) {
            if quad < WIDTH {
                own_queries[quad] = q[query_start + quad];
                let others = all_vec4(own_queries[quad]);
                for (var at = 0u; at < 8u; at++) {
                    scores[at] += dot(rows[quad], others[at]);
                }
            }
            if quad < VALUE_WIDTH {
                own_gradients[quad] = g[g_start + quad];
                own_delta += dot(own_gradients[quad], y[y_start + quad]);
                let others = all_vec4(own_gradients[quad]);
                for (var at = 0u; at < 8u; at++) {
                    products[at] += dot(values[quad], others[at]);
                }
            }
        }
        let deltas = all_f32(own_delta);
        for (var at = 0u; at < 8u; at++) {
            let other = first + at;
            let seen = other < params.queries && sees(other, key);
            let score = finished_score(index, min(other, params.queries - 1u), key, scores[at]);
            let p = exp_f32(score - log_sums[at]);
            products[at] = select(0.0, p * (products[at] - deltas[at]) * params.scale, seen);
            scores[at] = select(0.0, p, seen);
        }
        for (var quad = 0u; quad < MOST; quad++) {
            if quad < WIDTH {
                let others = all_vec4(own_queries[quad]);
                for (var at = 0u; at < 8u; at++) {
                    let seen = first + at < params.queries && sees(first + at, key);
                    row_sum[quad] += products[at] * select(vec4<f32>(), others[at], seen);
                }
            }
            if quad < VALUE_WIDTH {
                let others = all_vec4(own_gradients[quad]);
                for (var at = 0u; at < 8u; at++) {
                    let seen = first + at < params.queries && sees(first + at, key);
                    value_sum[quad] += scores[at] * select(vec4<f32>(), others[at], seen);
                }
            }
        }
    }
    if !exists || first_key + lane >= params.keys {
        return;
    }
    let key_target = row_start(index, key, params.dk, params.dk_batch) / 4u;
    let value_target = row_start(index, key, params.dv, params.dv_batch) / 4u;
    for (var quad = 0u; quad < MOST; quad++) {
        if quad < WIDTH {
            gradients[key_target + quad] = row_sum[quad];
        }
        if quad < VALUE_WIDTH {
            gradients[value_target + quad] = value_sum[quad];
        }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    // Workgroups of queries come first, so that no workgroup goes through both functions.
    let query_parts = parts_of(params.queries);
    let key_parts = parts_of(params.keys);
    let query_groups = (params.batches * query_parts + 7u) / 8u;
    let group = workgroup_number(id, count);
    if group < query_groups {
        let number = group * 8u + subgroup;
        let index = min(number / query_parts, params.batches - 1u);
        query_gradients(index, number % query_parts * 8u, lane, number < params.batches * query_parts);
    } else {
        let number = (group - query_groups) * 8u + subgroup;
        let index = min(number / key_parts, params.batches - 1u);
        key_gradients(index, number % key_parts * 8u, lane, number < params.batches * key_parts);
    }
}
