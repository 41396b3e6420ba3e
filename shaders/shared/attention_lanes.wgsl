// uses: shared/attention

// What both passes of attention for drivers in software share: a thread has a row, a subgroup of 8 threads has 8 neighbours
// of one matrix, and goes over the rows of the other side 8 at a time. Each thread loads one of those; what one has loaded,
// all use, by broadcasts (matmul_lanes.wgsl says why).
//
// Heads are at most 64 wide, all widths, offsets and strides multiples of 4, and rows without gaps. A kernel declares the
// bindings q, k and mask, the first two of vec4<f32>.

// vec4 of a query and of a value.
override WIDTH: u32 = 16u;
override VALUE_WIDTH: u32 = 16u;
// 1: there is a mask.
override MASKED: u32 = 0u;

// Loops over the vec4 of a row go this far, whatever its width: the driver unrolls them then, and keeps rows in registers.
const MOST: u32 = 16u;

// Subgroups that it takes for so many rows of a matrix.
fn parts_of(rows: u32) -> u32 {
    return (rows + 7u) / 8u;
}

// What each lane has, for all.
fn all_vec4(own: vec4<f32>) -> array<vec4<f32>, 8> {
    return array<vec4<f32>, 8>(
        subgroupBroadcast(own, 0u),
        subgroupBroadcast(own, 1u),
        subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u),
        subgroupBroadcast(own, 5u),
        subgroupBroadcast(own, 6u),
        subgroupBroadcast(own, 7u),
    );
}

fn all_f32(own: f32) -> array<f32, 8> {
    return array<f32, 8>(
        subgroupBroadcast(own, 0u),
        subgroupBroadcast(own, 1u),
        subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u),
        subgroupBroadcast(own, 4u),
        subgroupBroadcast(own, 5u),
        subgroupBroadcast(own, 6u),
        subgroupBroadcast(own, 7u),
    );
}

// The scaled and masked score of a query and a key, from their product.
fn finished_score(index: u32, query: u32, key: u32, product: f32) -> f32 {
    var value = product * params.scale;
    if MASKED == 1u {
        value += mask[row_start(index, query, params.mask, params.mask_batch) + key * params.mask.z];
    }
    return value;
}
