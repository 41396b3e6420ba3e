// What all kernels of attention share: where operands lie, and what a query sees.
//
// A kernel that uses this declares `var<uniform> params: AttentionParams`.

struct AttentionParams {
    batches: u32,
    queries: u32,
    keys: u32,
    width: u32,
    value_width: u32,
    scale: f32,
    causal: u32,
    masked: u32,
    batch_dims: vec4<u32>,
    // Of each operand: offset, and distances between rows and between columns; then those between matrices of the batch.
    q: vec4<u32>,
    q_batch: vec4<u32>,
    k: vec4<u32>,
    k_batch: vec4<u32>,
    v: vec4<u32>,
    v_batch: vec4<u32>,
    mask: vec4<u32>,
    mask_batch: vec4<u32>,
    y: vec4<u32>,
    y_batch: vec4<u32>,
    g: vec4<u32>,
    g_batch: vec4<u32>,
    dq: vec4<u32>,
    dq_batch: vec4<u32>,
    dk: vec4<u32>,
    dk_batch: vec4<u32>,
    dv: vec4<u32>,
    dv_batch: vec4<u32>,
}

// Where row `row` of matrix `index` of the batch begins.
fn row_start(index: u32, row: u32, place: vec4<u32>, batch: vec4<u32>) -> u32 {
    var rest = index;
    var start = place.x + row * place.y;
    start += rest % params.batch_dims.w * batch.w;
    rest /= params.batch_dims.w;
    start += rest % params.batch_dims.z * batch.z;
    rest /= params.batch_dims.z;
    start += rest % params.batch_dims.y * batch.y;
    rest /= params.batch_dims.y;
    return start + rest * batch.x;
}

// Whether query `query` sees key `key`.
fn sees(query: u32, key: u32) -> bool {
    return key < params.keys && (params.causal == 0u || key <= query);
}
