// uses: shared/matrices, shared/matrix_elements, shared/matrix_tiles, shared/index

// C = activation(A B + bias) for each matrix of a batch, for GPUs with fast workgroup memory, and matrices so large that tiles
// of this size keep all of a GPU busy: matmul.wgsl with twice the tile each way, which halves what goes through memory.
//
// Shapes: a [batch.., M, K], b [batch.., K, N], any strides; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of 256 computes a 128 x 128 tile of C, a thread 8 x 8 of it in registers: rows and columns in two
// halves, 64 apart, so that neighbours read neighbours of workgroup memory. Tiles of A (128 x 8) and B (8 x 128) go through
// that as vec4 along rows of A^T and B; while a tile is multiplied, each thread already reads its elements of the next.
// Bytes: A once per 128 columns and B once per 128 rows of C: (M K N / 128) * 8; C once.
// Operations: 2 M N K. Per step of K a thread reads 4 vec4 of workgroup memory for 64 multiply-adds.

const TILE: u32 = 128u;
const DEPTH: u32 = 8u;
// vec4 per row of a tile in workgroup memory: one more than 128 / 4, which spreads a column over the banks.
const PITCH: u32 = 33u;

var<workgroup> tile_a: array<vec4<f32>, 264>; // DEPTH * PITCH
var<workgroup> tile_b: array<vec4<f32>, 264>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row_tiles = (params.m + TILE - 1u) / TILE;
    let column_tiles = (params.n + TILE - 1u) / TILE;
    let part = part_of(workgroup_number(id, count), row_tiles, column_tiles);
    if part.x >= params.batches {
        return;
    }
    let start = batch_offsets(part.x);
    let first_row = part.y * TILE;
    let first_column = part.z * TILE;
    let place_a = place_in_tile(lane, params.a_row, params.a_column);
    let place_b = place_in_tile(lane, params.b_column, params.b_row);
    let slot_a = place_a.x * PITCH + place_a.y / 4u;
    let slot_b = place_b.x * PITCH + place_b.y / 4u;
    let row = lane / 16u;
    let column = lane % 16u;

    // Eight rows of C, of each the four columns of the left half and those of the right.
    var left: array<vec4<f32>, 8>;
    var right: array<vec4<f32>, 8>;
    let left_biases = first_biases(first_column + column * 4u);
    let right_biases = first_biases(first_column + 64u + column * 4u);
    for (var own = 0u; own < 8u; own++) {
        left[own] = left_biases;
        right[own] = right_biases;
    }
    var next_a = read_a(start.x, first_row + place_a.y, place_a.x);
    var next_b = read_b(start.y, first_column + place_b.y, place_b.x);
    for (var depth = 0u; depth < params.k; depth += DEPTH) {
        // The tiles of the previous step have been multiplied.
        workgroupBarrier();
        tile_a[slot_a] = next_a;
        tile_b[slot_b] = next_b;
        workgroupBarrier();
        let ahead = depth + DEPTH;
        if ahead < params.k {
            next_a = read_a(start.x, first_row + place_a.y, ahead + place_a.x);
            next_b = read_b(start.y, first_column + place_b.y, ahead + place_b.x);
        }
        for (var step = 0u; step < DEPTH; step += 1u) {
            let upper = tile_a[step * PITCH + row];
            let lower = tile_a[step * PITCH + 16u + row];
            let left_columns = tile_b[step * PITCH + column];
            let right_columns = tile_b[step * PITCH + 16u + column];
            left[0] += upper.x * left_columns;
            right[0] += upper.x * right_columns;
            left[1] += upper.y * left_columns;
            right[1] += upper.y * right_columns;
            left[2] += upper.z * left_columns;
            right[2] += upper.z * right_columns;
            left[3] += upper.w * left_columns;
            right[3] += upper.w * right_columns;
            left[4] += lower.x * left_columns;
            right[4] += lower.x * right_columns;
            left[5] += lower.y * left_columns;
            right[5] += lower.y * right_columns;
            left[6] += lower.z * left_columns;
            right[6] += lower.z * right_columns;
            left[7] += lower.w * left_columns;
            right[7] += lower.w * right_columns;
        }
    }
    for (var own = 0u; own < 8u; own++) {
        let out_row = first_row + own / 4u * 64u + row * 4u + own % 4u;
        store(part.x, out_row, first_column + column * 4u, left[own]);
        store(part.x, out_row, first_column + 64u + column * 4u, right[own]);
    }
}
