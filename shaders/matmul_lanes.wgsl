// uses: shared/activation, shared/matrices, shared/index

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

override LANES: u32 = 32u;
// 1: the columns of B lie in memory without gaps, not its rows. K is then a multiple of 4.
override TRANSPOSED: u32 = 0u;
// 1: K is no multiple of 4.
override TAIL: u32 = 0u;

const ROWS: u32 = 32u;
// A thread loads elements of one of two rows: 4 steps of K for each.
const PAIRS: u32 = 16u;

@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

// Four columns of B in four steps of K, step by step.
struct Strip {
    steps: array<vec4<f32>, 4>,
}

// Step `step` of four columns where rows lie in memory; zeros past the end of K.
fn row_of_b(start: u32, depth: u32) -> vec4<f32> {
    if TAIL == 1u {
        let inside = b[(start + min(depth, params.k - 1u) * params.b_row) / 4u];
        return select(vec4<f32>(), inside, depth < params.k);
    }
    return b[(start + depth * params.b_row) / 4u];
}

fn read_b(start: u32, depth: u32) -> Strip {
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

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) neighbour: u32,
) {
    let row_parts = (params.m + ROWS - 1u) / ROWS;
    let column_parts = (params.n + 4u * LANES - 1u) / (4u * LANES);
    let part = part_of(workgroup_number(id, count), row_parts, column_parts);
    if part.x >= params.batches {
        return;
    }
    let start = batch_offsets(part.x);
    let first_row = part.y * ROWS;
    let column = (part.z * LANES + lane) * 4u;
    // What is read past the end is not written.
    let inside = min(column, params.n - 4u);
    let step = neighbour % 4u;
    var places: array<u32, PAIRS>;
    for (var pair = 0u; pair < PAIRS; pair++) {
        places[pair] = start.x + min(first_row + 2u * pair + neighbour / 4u, params.m - 1u) * params.a_row;
    }
    let biases = first_biases(inside);
    var sums: array<vec4<f32>, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        sums[row] = biases;
    }
    let start_b = start.y + inside * params.b_column;
    // llvmpipe ends a thread's loops after 65,535 rounds: K reaches 262,140 there.
    for (var depth = 0u; depth < params.k; depth += 4u) {
        let columns = read_b(start_b, depth);
        var own = depth + step;
        if TAIL == 1u {
            own = min(own, params.k - 1u);
        }
        let a_at = own * params.a_column;
        for (var pair = 0u; pair < PAIRS; pair++) {
            // The broadcasts are of lanes by number: all of them are active, as the loop's end is the same for all.
            var x = a[places[pair] + a_at];
            if TAIL == 1u {
                x = select(0.0, x, depth + step < params.k);
            }
            var sum = sums[2u * pair];
            sum = fma(vec4<f32>(subgroupBroadcast(x, 0u)), columns.steps[0], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 1u)), columns.steps[1], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 2u)), columns.steps[2], sum);
            sums[2u * pair] = fma(vec4<f32>(subgroupBroadcast(x, 3u)), columns.steps[3], sum);
            sum = sums[2u * pair + 1u];
            sum = fma(vec4<f32>(subgroupBroadcast(x, 4u)), columns.steps[0], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 5u)), columns.steps[1], sum);
            sum = fma(vec4<f32>(subgroupBroadcast(x, 6u)), columns.steps[2], sum);
            sums[2u * pair + 1u] = fma(vec4<f32>(subgroupBroadcast(x, 7u)), columns.steps[3], sum);
        }
    }
    if column < params.n {
        for (var row = 0u; row < ROWS; row++) {
            // Rows past the end are the last one again, the same value at the same place by the same thread.
            let at = (part.x * params.m + min(first_row + row, params.m - 1u)) * params.n + column;
            let sum = sums[row];
            c[at / 4u] = vec4<f32>(
                activate(ACTIVATION, sum.x),
                activate(ACTIVATION, sum.y),
                activate(ACTIVATION, sum.z),
                activate(ACTIVATION, sum.w),
            );
        }
    }
}
