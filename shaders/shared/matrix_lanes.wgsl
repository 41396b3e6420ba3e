// uses: shared/activation, shared/matrices

// What the matmul kernels for the lanes of a driver in software have in common; matmul_lanes.wgsl describes them.
//
// A kernel that uses this declares b and c, `fn first_inside(column: u32) -> u32`, from where columns can be read,
// `fn read_strip(start: u32, column: u32, depth: u32) -> Strip`, and `fn store_four(row_start: u32, column: u32, values: vec4<f32>)`,
// which writes up to four neighbours of a row of c.

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;

override LANES: u32 = 32u;
// 1: K is no multiple of 4.
override TAIL: u32 = 0u;

const ROWS: u32 = 32u;
// A thread loads elements of one of two rows: 4 steps of K for each.
const PAIRS: u32 = 16u;

// Four columns of B in four steps of K, step by step.
struct Strip {
    steps: array<vec4<f32>, 4>,
}

// Where the sums of four neighbouring columns begin: their biases.
fn first_biases(column: u32) -> vec4<f32> {
    if BIAS == 0u {
        return vec4<f32>();
    }
    let place = bias_places(column);
    return vec4<f32>(bias[place.x], bias[place.y], bias[place.z], bias[place.w]);
}

// The part of C of a workgroup.
fn multiply(workgroup: u32, lane: u32, neighbour: u32) {
    let row_parts = (params.m + ROWS - 1u) / ROWS;
    let column_parts = (params.n + 4u * LANES - 1u) / (4u * LANES);
    let part = part_of(workgroup, row_parts, column_parts);
    if part.x >= params.batches {
        return;
    }
    let start = batch_offsets(part.x);
    let first_row = part.y * ROWS;
    let column = (part.z * LANES + lane) * 4u;
    let inside = first_inside(column);
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
    // Where all threads of a subgroup are past the last column, there is nothing to do.
    let end = select(0u, params.k, column - 4u * neighbour < params.n);
    // llvmpipe ends a thread's loops after 65,535 rounds: K reaches 262,140 there.
    for (var depth = 0u; depth < end; depth += 4u) {
        let columns = read_strip(start.y, inside, depth);
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
    // Eight rows at a time, and none past the end: as a loop, because the code of all the stores takes longer to build than
    // everything above.
    let groups = (min(params.m - first_row, ROWS) + 7u) / 8u;
    for (var group = 0u; group < groups; group++) {
        for (var own = 0u; own < 8u; own++) {
            var sum = select(sums[own], sums[own + 8u], group == 1u);
            sum = select(sum, sums[own + 16u], group == 2u);
            sum = select(sum, sums[own + 24u], group == 3u);
            let values = vec4<f32>(
                activate(ACTIVATION, sum.x),
                activate(ACTIVATION, sum.y),
                activate(ACTIVATION, sum.z),
                activate(ACTIVATION, sum.w),
            );
            // Rows past the end are the last one again, the same value at the same place by the same thread.
            let row = min(first_row + group * 8u + own, params.m - 1u);
            store_four((part.x * params.m + row) * params.n, column, values);
        }
    }
}
