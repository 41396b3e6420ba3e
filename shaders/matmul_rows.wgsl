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

// Where four neighbouring columns of B begin, or the last one.
fn column_starts(start: u32, column: u32) -> vec4<u32> {
    let columns = vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u);
    return vec4<u32>(start) + min(columns, vec4<u32>(params.n - 1u)) * params.b_column;
}

fn elements_of_b(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(element_of_b(at.x), element_of_b(at.y), element_of_b(at.z), element_of_b(at.w));
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
    let b_starts = column_starts(start.y, column);
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
        let columns = elements_of_b(b_starts + b_at);
        let columns_next = elements_of_b(b_starts + b_next);
        sum0 += element_of_a(a0 + a_at) * columns;
        sum1 += element_of_a(a1 + a_at) * columns;
        sum2 += element_of_a(a2 + a_at) * columns;
        sum3 += element_of_a(a3 + a_at) * columns;
        sum0 += element_of_a(a0 + a_next) * columns_next;
        sum1 += element_of_a(a1 + a_next) * columns_next;
        sum2 += element_of_a(a2 + a_next) * columns_next;
        sum3 += element_of_a(a3 + a_next) * columns_next;
    }
    if depth < params.k {
        let a_at = depth * params.a_column;
        let b_at = depth * params.b_row;
        let columns = elements_of_b(b_starts + b_at);
        sum0 += element_of_a(a0 + a_at) * columns;
        sum1 += element_of_a(a1 + a_at) * columns;
        sum2 += element_of_a(a2 + a_at) * columns;
        sum3 += element_of_a(a3 + a_at) * columns;
    }
    store(part.x, row, column, sum0);
    store(part.x, row + 1u, column, sum1);
    store(part.x, row + 2u, column, sum2);
    store(part.x, row + 3u, column, sum3);
}
