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

// The gradients of one query for each thread.
fn query_gradients(index: u32, first_query: u32, lane: u32, exists: bool) {
    let query = min(first_query + lane, params.queries - 1u);
    var rows: array<vec4<f32>, MOST>;
    var slopes: array<vec4<f32>, MOST>;
    var sum: array<vec4<f32>, MOST>;
    let start = row_start(index, query, params.q, params.q_batch) / 4u;
    let g_start = row_start(index, query, params.g, params.g_batch) / 4u;
    let y_start = row_start(index, query, params.y, params.y_batch) / 4u;
    for (var quad = 0u; quad < params.width / 4u; quad++) {
        put(&rows, quad, q[start + quad]);
    }
    var delta = 0.0;
    for (var quad = 0u; quad < params.value_width / 4u; quad++) {
        let gradient = g[g_start + quad];
        put(&slopes, quad, gradient);
        delta += dot(gradient, y[y_start + quad]);
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
        for (var quad = 0u; quad < params.width / 4u; quad++) {
            add_dots(&scores, pick(&rows, quad), k[key_start + quad]);
        }
        for (var quad = 0u; quad < params.value_width / 4u; quad++) {
            add_dots(&products, pick(&slopes, quad), v[value_start + quad]);
        }
        for (var at = 0u; at < 8u; at++) {
            let score = finished_score(index, query, min(first + at, params.keys - 1u), scores[at]);
            let p = exp_f32(score - log_sum);
            scores[at] = select(0.0, p * (products[at] - delta) * params.scale, sees(query, first + at));
        }
        for (var quad = 0u; quad < params.width / 4u; quad++) {
            let others = all_vec4(k[key_start + quad]);
            var total = pick(&sum, quad);
            for (var at = 0u; at < 8u; at++) {
                // What is not seen does not count even where it is not finite.
                total += scores[at] * select(vec4<f32>(), others[at], sees(query, first + at));
            }
            put(&sum, quad, total);
        }
    }
    if !exists || first_query + lane >= params.queries {
        return;
    }
    let target_start = row_start(index, query, params.dq, params.dq_batch) / 4u;
    for (var quad = 0u; quad < params.width / 4u; quad++) {
        gradients[target_start + quad] = pick(&sum, quad);
    }
}

// Whether query `query` exists and sees a key.
fn seen_by(query: u32, key: u32) -> bool {
    return query < params.queries && sees(query, key);
}

// sum + the rows that the lanes have, by weights, of the queries from `first` on that see the key.
fn add_rows(
    sum: ptr<function, array<vec4<f32>, MOST>>,
    quad: u32,
    weights: ptr<function, array<f32, 8>>,
    own: vec4<f32>,
    first: u32,
    key: u32,
) {
    let others = all_vec4(own);
    var total = pick(sum, quad);
    for (var at = 0u; at < 8u; at++) {
        total += (*weights)[at] * select(vec4<f32>(), others[at], seen_by(first + at, key));
    }
    put(sum, quad, total);
}

// The gradients of one key and its value for each thread.
fn key_gradients(index: u32, first_key: u32, lane: u32, exists: bool) {
    let key = min(first_key + lane, params.keys - 1u);
    var rows: array<vec4<f32>, MOST>;
    var values: array<vec4<f32>, MOST>;
    var row_sum: array<vec4<f32>, MOST>;
    var value_sum: array<vec4<f32>, MOST>;
    let start = row_start(index, key, params.k, params.k_batch) / 4u;
    let value_start = row_start(index, key, params.v, params.v_batch) / 4u;
    for (var quad = 0u; quad < params.width / 4u; quad++) {
        put(&rows, quad, k[start + quad]);
    }
    for (var quad = 0u; quad < params.value_width / 4u; quad++) {
        put(&values, quad, v[value_start + quad]);
    }
    let begin = select(0u, first_key, params.causal == 1u);
    let end = select(0u, params.queries, exists);
    for (var first = begin; first < end; first += 8u) {
        let query = min(first + lane, params.queries - 1u);
        let query_start = row_start(index, query, params.q, params.q_batch) / 4u;
        let g_start = row_start(index, query, params.g, params.g_batch) / 4u;
        let y_start = row_start(index, query, params.y, params.y_batch) / 4u;
        let log_sums = all_f32(sums[index * params.queries + query]);
        var scores = array<f32, 8>();
        var products = array<f32, 8>();
        for (var quad = 0u; quad < params.width / 4u; quad++) {
            add_dots(&scores, pick(&rows, quad), q[query_start + quad]);
        }
        var own_delta = 0.0;
        for (var quad = 0u; quad < params.value_width / 4u; quad++) {
            let gradient = g[g_start + quad];
            own_delta += dot(gradient, y[y_start + quad]);
            add_dots(&products, pick(&values, quad), gradient);
        }
        let deltas = all_f32(own_delta);
        for (var at = 0u; at < 8u; at++) {
            let seen = seen_by(first + at, key);
            let score = finished_score(index, min(first + at, params.queries - 1u), key, scores[at]);
            let p = exp_f32(score - log_sums[at]);
            products[at] = select(0.0, p * (products[at] - deltas[at]) * params.scale, seen);
            scores[at] = select(0.0, p, seen);
        }
        for (var quad = 0u; quad < params.width / 4u; quad++) {
            add_rows(&row_sum, quad, &products, q[query_start + quad], first, key);
        }
        for (var quad = 0u; quad < params.value_width / 4u; quad++) {
            add_rows(&value_sum, quad, &scores, g[g_start + quad], first, key);
        }
    }
    if !exists || first_key + lane >= params.keys {
        return;
    }
    let key_target = row_start(index, key, params.dk, params.dk_batch) / 4u;
    let value_target = row_start(index, key, params.dv, params.dv_batch) / 4u;
    for (var quad = 0u; quad < params.width / 4u; quad++) {
        gradients[key_target + quad] = pick(&row_sum, quad);
    }
    for (var quad = 0u; quad < params.value_width / 4u; quad++) {
        gradients[value_target + quad] = pick(&value_sum, quad);
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
