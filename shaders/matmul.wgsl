// uses: shared/matrices, shared/matrix_elements, shared/matrix_tiles, shared/index

// C = activation(A B + bias) for each matrix of a batch, for GPUs with fast workgroup memory.
//
// Shapes: a [batch.., M, K], b [batch.., K, N], any strides; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of 256 computes a 64 x 64 tile of C, a thread 4 x 4 of it in registers. Tiles of A (64 x 16) and
// B (16 x 64) go through workgroup memory as vec4 along rows of A^T and B; while a tile is multiplied, each thread
// already reads its four elements of the next tiles. Which way threads walk over a tile in memory follows the
// operand's strides, so that neighbours read neighbours.
// Bytes: A once per 64 columns and B once per 64 rows of C: (M K N / 64) * 8; C once.
// Operations: 2 M N K. Per step of K a thread reads 2 vec4 of workgroup memory for 16 multiply-adds.

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;
// vec4 per row of a tile in workgroup memory: one more than 64 / 4, which spreads a column over the banks.
const PITCH: u32 = 17u;

var<workgroup> tile_a: array<vec4<f32>, 272>; // DEPTH * PITCH
var<workgroup> tile_b: array<vec4<f32>, 272>;

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

    // A thread's part of C: one vec4 of columns per row.
    let biases = first_biases(first_column + column * 4u);
    var sum0 = biases;
    var sum1 = biases;
    var sum2 = biases;
    var sum3 = biases;
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
            let rows = tile_a[step * PITCH + row];
            let columns = tile_b[step * PITCH + column];
            sum0 += rows.x * columns;
            sum1 += rows.y * columns;
            sum2 += rows.z * columns;
            sum3 += rows.w * columns;
        }
    }
    let out_row = first_row + row * 4u;
    let out_column = first_column + column * 4u;
    store(part.x, out_row, out_column, sum0);
    store(part.x, out_row + 1u, out_column, sum1);
    store(part.x, out_row + 2u, out_column, sum2);
    store(part.x, out_row + 3u, out_column, sum3);
}
