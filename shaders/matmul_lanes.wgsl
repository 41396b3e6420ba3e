// uses: shared/matrix_lanes, shared/index

// C = activation(A B + bias) for each matrix of a batch, for drivers in software that run 8 threads in the lanes of a
// processor's vector. There a load costs the same whether lanes read one address or eight, five cycles for each, and
// that is more than the arithmetic: so every load must bring eight different elements. Lanes lie along the columns of C,
// and an element of A, which all of them need, is loaded by one lane and broadcast.
//
// Shapes: a [batch.., M, K], any strides; b [batch.., K, N] with N a multiple of 4 and rows, or columns where
// TRANSPOSED, that begin at multiples of 4 and have no gaps; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of LANES computes 32 rows and 4 LANES columns of C, a thread 32 x 4 of it. Subgroups have 8 threads.
// Bytes: B once per 32 rows of C (from the cache), A once per 32 columns, C once.
// Operations: 2 M N K. Per 4 steps of K a thread loads 4 vec4 of B and 16 elements of A for 512 multiply-adds.

// 1: the columns of B lie in memory without gaps, not its rows. K is then a multiple of 4.
override TRANSPOSED: u32 = 0u;

@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

// What is read past the end is not written.
fn first_inside(column: u32) -> u32 {
    return min(column, params.n - 4u);
}

// Step `step` of four columns where rows lie in memory; zeros past the end of K.
fn row_of_b(start: u32, depth: u32) -> vec4<f32> {
    if TAIL == 1u {
        let inside = b[(start + min(depth, params.k - 1u) * params.b_row) / 4u];
        return select(vec4<f32>(), inside, depth < params.k);
    }
    return b[(start + depth * params.b_row) / 4u];
}

fn read_strip(batch_start: u32, column: u32, depth: u32) -> Strip {
    let start = batch_start + column * params.b_column;
    if TRANSPOSED == 1u {
        let at = start + depth;
        let column0 = b[at / 4u];
        let column1 = b[(at + params.b_column) / 4u];
        let column2 = b[(at + 2u * params.b_column) / 4u];
        let column3 = b[(at + 3u * params.b_column) / 4u];
        return Strip(array<vec4<f32>, 4>(
            vec4<f32>(column0.x, column1.x, column2.x, column3.x),
            vec4<f32>(column0.y, column1.y, column2.y, column3.y),
            vec4<f32>(column0.z, column1.z, column2.z, column3.z),
            vec4<f32>(column0.w, column1.w, column2.w, column3.w),
        ));
    }
    return Strip(array<vec4<f32>, 4>(
        row_of_b(start, depth),
        row_of_b(start, depth + 1u),
        row_of_b(start, depth + 2u),
        row_of_b(start, depth + 3u),
    ));
}

fn store_four(row_start: u32, column: u32, values: vec4<f32>) {
    if column < params.n {
        c[(row_start + column) / 4u] = values;
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) neighbour: u32,
) {
    multiply(workgroup_number(id, count), lane, neighbour);
}
