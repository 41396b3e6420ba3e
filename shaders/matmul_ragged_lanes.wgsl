// uses: shared/matrix_lanes, shared/index

// matmul_lanes.wgsl for a B of any strides and any number of columns: half as fast, as single elements cost more than those of
// a vec4.
//
// Shapes: a [batch.., M, K], b [batch.., K, N], any strides; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of LANES computes 32 rows and 4 LANES columns of C, a thread 32 x 4 of it. Subgroups have 8 threads.
// Bytes: B once per 32 rows of C (from the cache), A once per 32 columns, C once.
// Operations: 2 M N K. Per 4 steps of K a thread loads 16 elements of B and 16 of A for 512 multiply-adds.

@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

fn first_inside(column: u32) -> u32 {
    return min(column, params.n - 1u);
}

// Step `depth` of the columns at `places`; zeros past the end of K.
fn step_of_b(places: vec4<u32>, depth: u32) -> vec4<f32> {
    let at = places + min(depth, params.k - 1u) * params.b_row;
    let inside = vec4<f32>(b[at.x], b[at.y], b[at.z], b[at.w]);
    if TAIL == 1u {
        return select(vec4<f32>(), inside, depth < params.k);
    }
    return inside;
}

// Past the last column there is that one again, which is not written.
fn read_strip(start: u32, column: u32, depth: u32) -> Strip {
    let own = min(vec4<u32>(column) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.n - 1u));
    let places = vec4<u32>(start) + own * params.b_column;
    return Strip(array<vec4<f32>, 4>(
        step_of_b(places, depth),
        step_of_b(places, depth + 1u),
        step_of_b(places, depth + 2u),
        step_of_b(places, depth + 3u),
    ));
}

fn store_four(row_start: u32, column: u32, values: vec4<f32>) {
    let at = row_start + column;
    if column < params.n {
        c[at] = values.x;
    }
    if column + 1u < params.n {
        c[at + 1u] = values.y;
    }
    if column + 2u < params.n {
        c[at + 2u] = values.z;
    }
    if column + 3u < params.n {
        c[at + 3u] = values.w;
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
