// uses: shared/attention

// A score, for kernels that declare the bindings q, k and mask as arrays of f32.

// The scaled and masked score of a query and a key that it sees.
fn score(index: u32, query: u32, key: u32) -> f32 {
    let query_start = row_start(index, query, params.q, params.q_batch);
    let key_start = row_start(index, key, params.k, params.k_batch);
    var sum = 0.0;
    for (var at = 0u; at < params.width; at++) {
        sum += q[query_start + at * params.q.z] * k[key_start + at * params.k.z];
    }
    sum *= params.scale;
    if params.masked == 1u {
        sum += mask[row_start(index, query, params.mask, params.mask_batch) + key * params.mask.z];
    }
    return sum;
}
