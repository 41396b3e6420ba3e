// uses: shared/cooperative_16, shared/matrices, shared/matrix_halves

// C = activation(A B + bias) for each matrix of a batch of f16, on cooperative matrices: a subgroup multiplies matrices of
// SIDE x SIDE as one operation, of f16 with sums in f32. For GPUs that have them and gave the results of matmul_half.wgsl
// when the device was opened.
//
// Shapes: a [batch.., M, K], b [batch.., K, N] of f16, whose elements lie in memory in pairs along one of the last two axes: no
// gaps along it, an even size, and even strides along all others; bias [N]; c [batch, M, N], contiguous.
// Threads: a workgroup of LANES, four subgroups, computes a tile of 4 SIDE x 4 SIDE of C, each subgroup a quarter of it as 2 x 2
// matrices. Tiles of A and B, 2 SIDE deep, go through workgroup memory in the order in which they lie in memory, a thread a
// pair at a time; what is outside of a or b is 0. The sums leave through workgroup memory too, one matrix of each subgroup at a time.
// Bytes: A once per 4 SIDE columns and B once per 4 SIDE rows of C, 2 bytes an element; C once.
// Operations: 2 M N K. Per SIDE steps of K a subgroup loads 4 matrices from workgroup memory for 4 products.

// Threads of four subgroups. Of subgroups that turn out smaller, those past the fourth do the work of the first again.
override LANES: u32 = 128u;
// 1: the pairs of A lie along its columns, in steps of M; else along K.
override A_TURNED: u32 = 0u;
// 1: the pairs of B lie along its columns, in steps of K; else along N.
override B_TURNED: u32 = 0u;

const TILE: u32 = 4u * SIDE;
const DEPTH: u32 = 2u * SIDE;
// Halves from row to row in workgroup memory, of rows along K and of others. Matrices must begin at multiples of 16 bytes; 16 bytes
// more than a row spread a column over the banks.
const PITCH_DEEP: u32 = DEPTH + 8u;
const PITCH_WIDE: u32 = TILE + 8u;
const TILE_WORDS: u32 = TILE * DEPTH / 2u;

// TILE rows of PITCH_DEEP, or DEPTH rows of PITCH_WIDE, which are fewer.
const TILE_ROOM: u32 = TILE * PITCH_DEEP;
const BLOCK: u32 = SIDE * SIDE;
const BLOCKS_ROOM: u32 = 4u * BLOCK;

var<workgroup> tile_a: array<f16, TILE_ROOM>;
var<workgroup> tile_b: array<f16, TILE_ROOM>;
// One matrix of sums of each subgroup.
var<workgroup> blocks: array<f32, BLOCKS_ROOM>;

// Which pair of a tile is number `pair`: (row, first column), of rows of `length` halves.
fn place_of_pair(pair: u32, length: u32) -> vec2<u32> {
    return vec2<u32>(pair / (length / 2u), pair % (length / 2u) * 2u);
}

// The two halves of a word. By way of f32, which is exact: naga 30 has no bitcast to two f16.
fn halves_of(word: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(word));
}

fn stage_a(lane: u32, start: u32, first_row: u32, depth: u32) {
    for (var pair = lane; pair < TILE_WORDS; pair += LANES) {
        var row: u32;
        var step: u32;
        var slot: u32;
        if A_TURNED == 1u {
            let place = place_of_pair(pair, TILE);
            row = first_row + place.y;
            step = depth + place.x;
            slot = place.x * PITCH_WIDE + place.y;
        } else {
            let place = place_of_pair(pair, DEPTH);
            row = first_row + place.x;
            step = depth + place.y;
            slot = place.x * PITCH_DEEP + place.y;
        }
        var word = 0u;
        if row < params.m && step < params.k {
            word = a[(start + row * params.a_row + step * params.a_column) >> 1u];
        }
        let halves = halves_of(word);
        tile_a[slot] = halves.x;
        tile_a[slot + 1u] = halves.y;
    }
}

fn stage_b(lane: u32, start: u32, first_column: u32, depth: u32) {
    for (var pair = lane; pair < TILE_WORDS; pair += LANES) {
        var column: u32;
        var step: u32;
        var slot: u32;
        if B_TURNED == 1u {
            let place = place_of_pair(pair, DEPTH);
            column = first_column + place.x;
            step = depth + place.y;
            slot = place.x * PITCH_DEEP + place.y;
        } else {
            let place = place_of_pair(pair, TILE);
            column = first_column + place.y;
            step = depth + place.x;
            slot = place.x * PITCH_WIDE + place.y;
        }
        var word = 0u;
        if column < params.n && step < params.k {
            word = b[(start + step * params.b_row + column * params.b_column) >> 1u];
        }
        let halves = halves_of(word);
        tile_b[slot] = halves.x;
        tile_b[slot + 1u] = halves.y;
    }
}

// The matrix of A from row `row` and step `step` of the tile on. `coopLoadT` reads rows, `coopLoad` columns.
fn load_a(row: u32, step: u32) -> MatrixA {
    if A_TURNED == 1u {
        return coopLoad<MatrixA>(&tile_a[step * PITCH_WIDE + row], PITCH_WIDE);
    }
    return coopLoadT<MatrixA>(&tile_a[row * PITCH_DEEP + step], PITCH_DEEP);
}

fn load_b(step: u32, column: u32) -> MatrixB {
    if B_TURNED == 1u {
        return coopLoad<MatrixB>(&tile_b[column * PITCH_DEEP + step], PITCH_DEEP);
    }
    return coopLoadT<MatrixB>(&tile_b[step * PITCH_WIDE + column], PITCH_WIDE);
}

// Writes the matrices of sums of all four subgroups, each at `row`, `column` of its quarter, four columns at a time.
fn store_blocks(lane: u32, part: vec3<u32>, row: u32, column: u32) {
    for (var four = lane; four < BLOCK; four += LANES) {
        let quarter = four / (BLOCK / 4u);
        let at = four * 4u;
        let within = at % BLOCK;
        let c_row = part.y * TILE + (quarter / 2u) * DEPTH + row + within / SIDE;
        let c_column = part.z * TILE + (quarter % 2u) * DEPTH + column + within % SIDE;
        let sums = vec4<f32>(blocks[at], blocks[at + 1u], blocks[at + 2u], blocks[at + 3u]);
        store(part.x, c_row, c_column, sums + first_biases(c_column));
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let row_tiles = (params.m + TILE - 1u) / TILE;
    let column_tiles = (params.n + TILE - 1u) / TILE;
    // `workgroup_number` and the test of the others, written out: naga takes what a function returns for something that differs
    // from thread to thread, and no cooperative matrix may come behind a return that depends on such.
    let number = id.x + id.y * count.x;
    if number >= row_tiles * column_tiles * params.batches {
        return;
    }
    let part = part_of(number, row_tiles, column_tiles);
    let start = batch_offsets(part.x);
    let quarter = subgroup % 4u;
    let row = quarter / 2u * DEPTH;
    let column = quarter % 2u * DEPTH;
    let block = quarter * BLOCK;

    for (var at = lane; at < BLOCKS_ROOM; at += LANES) {
        blocks[at] = 0.0;
    }
    workgroupBarrier();
    let zeros = coopLoadT<MatrixC>(&blocks[block], SIDE);
    var upper_left = zeros;
    var upper_right = zeros;
    var lower_left = zeros;
    var lower_right = zeros;
    for (var depth = 0u; depth < params.k; depth += DEPTH) {
        // The tiles of the previous step have been multiplied.
        workgroupBarrier();
        stage_a(lane, start.x, part.y * TILE, depth);
        stage_b(lane, start.y, part.z * TILE, depth);
        workgroupBarrier();
        for (var step = 0u; step < DEPTH; step += SIDE) {
            let upper = load_a(row, step);
            let lower = load_a(row + SIDE, step);
            let left = load_b(step, column);
            let right = load_b(step, column + SIDE);
            upper_left = coopMultiplyAdd(upper, left, upper_left);
            upper_right = coopMultiplyAdd(upper, right, upper_right);
            lower_left = coopMultiplyAdd(lower, left, lower_left);
            lower_right = coopMultiplyAdd(lower, right, lower_right);
        }
    }

    coopStoreT(upper_left, &blocks[block], SIDE);
    workgroupBarrier();
    store_blocks(lane, part, 0u, 0u);
    workgroupBarrier();
    coopStoreT(upper_right, &blocks[block], SIDE);
    workgroupBarrier();
    store_blocks(lane, part, 0u, SIDE);
    workgroupBarrier();
    coopStoreT(lower_left, &blocks[block], SIDE);
    workgroupBarrier();
    store_blocks(lane, part, SIDE, 0u);
    workgroupBarrier();
    coopStoreT(lower_right, &blocks[block], SIDE);
    workgroupBarrier();
    store_blocks(lane, part, SIDE, SIDE);
}
