// Tiles of a convolution as a product of matrices: one of A (TILE x DEPTH) and one of B (DEPTH x TILE) in workgroup memory, which
// 128 threads multiply, each 8 rows, in two halves 32 apart, of 4 columns: one vec4 of B.

const TILE: u32 = 64u;
const DEPTH: u32 = 8u;
// vec4 per row of a tile in workgroup memory: one more than 64 / 4, which spreads a column over the banks.
const PITCH: u32 = 17u;

var<workgroup> tile_a: array<vec4<f32>, 136>; // DEPTH * PITCH
var<workgroup> tile_b: array<vec4<f32>, 136>;

// Adds the product of the tiles to a thread's sums.
fn multiply_tiles(lane: u32, sums: ptr<function, array<vec4<f32>, 8>>) {
    let row = lane / 16u;
    let column = lane % 16u;
    for (var step = 0u; step < DEPTH; step += 1u) {
        let upper = tile_a[step * PITCH + row];
        let lower = tile_a[step * PITCH + 8u + row];
        let columns = tile_b[step * PITCH + column];
        (*sums)[0] += upper.x * columns;
        (*sums)[1] += upper.y * columns;
        (*sums)[2] += upper.z * columns;
        (*sums)[3] += upper.w * columns;
        (*sums)[4] += lower.x * columns;
        (*sums)[5] += lower.y * columns;
        (*sums)[6] += lower.z * columns;
        (*sums)[7] += lower.w * columns;
    }
}

// The row of a tile that is a thread's sum number `own`.
fn row_of_sum(lane: u32, own: u32) -> u32 {
    return own / 4u * 32u + lane / 16u * 4u + own % 4u;
}
