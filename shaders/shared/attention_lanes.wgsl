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

const MOST: u32 = 16u;

// vec4 number `quad` of a row in registers, which have no numbers at run time. With all of its loops over vec4 unrolled, a
// kernel would take seconds to build.
fn pick(row: ptr<function, array<vec4<f32>, MOST>>, quad: u32) -> vec4<f32> {
    var value = vec4<f32>();
    for (var slot = 0u; slot < MOST; slot++) {
        if slot < max(WIDTH, VALUE_WIDTH) {
            value = select(value, (*row)[slot], slot == quad);
        }
    }
    return value;
}

fn put(row: ptr<function, array<vec4<f32>, MOST>>, quad: u32, value: vec4<f32>) {
    for (var slot = 0u; slot < MOST; slot++) {
        if slot < max(WIDTH, VALUE_WIDTH) {
            (*row)[slot] = select((*row)[slot], value, slot == quad);
        }
    }
}

// scores + the products of a vec4 of a thread's row with those that the lanes have.
fn add_dots(scores: ptr<function, array<f32, 8>>, own: vec4<f32>, other: vec4<f32>) {
    let others = all_vec4(other);
    for (var at = 0u; at < 8u; at++) {
        (*scores)[at] += dot(own, others[at]);
    }
}

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
