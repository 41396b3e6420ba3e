// uses: shared/matrices, shared/matrix_elements, shared/index

// C = activation(A B + bias) for each matrix of a batch, for drivers in software: no workgroup memory, which is slow
// there; lanes along the columns, so that neighbours read neighbours of B and share every element of A.
//
// Shapes: a [batch.., M, K], b [batch.., K, N], any strides; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of LANES computes 4 rows and 4 LANES columns of C, a thread 4 x 4 of it in registers.
// Bytes: B once per 4 rows of C (from the cache), A once per 4 LANES columns, C once. Operations: 2 M N K.

// Few columns take few threads: idle ones cost as much as others.
override LANES: u32 = 64u;

// Where row `row` of A begins, or the last one: what is read past the end is not written.
fn row_start(start: u32, row: u32) -> u32 {
    return start + min(row, params.m - 1u) * params.a_row;
}

// Where column `column` of B begins, or the last one.
fn column_start(start: u32, column: u32) -> u32 {
    return start + min(column, params.n - 1u) * params.b_column;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row_parts = (params.m + 3u) / 4u;
    let column_parts = (params.n + 4u * LANES - 1u) / (4u * LANES);
    let part = part_of(workgroup_number(id, count), row_parts, column_parts);
    if part.x >= params.batches {
        return;
    }
    let start = batch_offsets(part.x);
    let row = part.y * 4u;
    let column = (part.z * LANES + lane) * 4u;

    let a0 = row_start(start.x, row);
    let a1 = row_start(start.x, row + 1u);
    let a2 = row_start(start.x, row + 2u);
    let a3 = row_start(start.x, row + 3u);
    let b0 = column_start(start.y, column);
    let b1 = column_start(start.y, column + 1u);
    let b2 = column_start(start.y, column + 2u);
    let b3 = column_start(start.y, column + 3u);
    let biases = first_biases(column);
    var sum0 = biases;
    var sum1 = biases;
    var sum2 = biases;
    var sum3 = biases;
    // Two steps of K at a time: llvmpipe ends a thread's loops after 65,535 rounds, so K reaches 131,070 there.
    var depth = 0u;
    for (; depth + 2u <= params.k; depth += 2u) {
        let a_at = depth * params.a_column;
        let a_next = a_at + params.a_column;
        let b_at = depth * params.b_row;
        let b_next = b_at + params.b_row;
        let columns = vec4<f32>(b[b0 + b_at], b[b1 + b_at], b[b2 + b_at], b[b3 + b_at]);
        let columns_next = vec4<f32>(b[b0 + b_next], b[b1 + b_next], b[b2 + b_next], b[b3 + b_next]);
        sum0 += a[a0 + a_at] * columns;
        sum1 += a[a1 + a_at] * columns;
        sum2 += a[a2 + a_at] * columns;
        sum3 += a[a3 + a_at] * columns;
        sum0 += a[a0 + a_next] * columns_next;
        sum1 += a[a1 + a_next] * columns_next;
        sum2 += a[a2 + a_next] * columns_next;
        sum3 += a[a3 + a_next] * columns_next;
    }
    if depth < params.k {
        let a_at = depth * params.a_column;
        let b_at = depth * params.b_row;
        let columns = vec4<f32>(b[b0 + b_at], b[b1 + b_at], b[b2 + b_at], b[b3 + b_at]);
        sum0 += a[a0 + a_at] * columns;
        sum1 += a[a1 + a_at] * columns;
        sum2 += a[a2 + a_at] * columns;
        sum3 += a[a3 + a_at] * columns;
    }
    store(part.x, row, column, sum0);
    store(part.x, row + 1u, column, sum1);
    store(part.x, row + 2u, column, sum2);
    store(part.x, row + 3u, column, sum3);
}
