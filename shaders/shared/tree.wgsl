// uses: shared/float_bits

// One value per thread combined over LANES neighbours, by halves: the order depends on the number of threads alone.
//
// A kernel that uses this declares LANES, a power of two, and `const GROUP: u32`, the threads of its workgroup, a multiple of
// it. Every thread of the workgroup calls the function and gets its neighbours' result. LANES / 2 + .. + 1 operations,
// log2(LANES) + 2 barriers; none of either for a thread alone.

var<workgroup> lanes: array<f32, GROUP>;

fn tree_sum(lane: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let place = lane % LANES;
    // Whoever still reads the previous result has done so after this.
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if place < width {
            lanes[lane] += lanes[lane + width];
        }
    }
    workgroupBarrier();
    return lanes[lane - place];
}

// NaN where any is.
fn tree_max(lane: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let place = lane % LANES;
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if place < width {
            lanes[lane] = max_f32(lanes[lane], lanes[lane + width]);
        }
    }
    workgroupBarrier();
    return lanes[lane - place];
}

// NaN where any is.
fn tree_min(lane: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let place = lane % LANES;
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if place < width {
            lanes[lane] = min_f32(lanes[lane], lanes[lane + width]);
        }
    }
    workgroupBarrier();
    return lanes[lane - place];
}

fn tree_product(lane: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let place = lane % LANES;
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if place < width {
            lanes[lane] *= lanes[lane + width];
        }
    }
    workgroupBarrier();
    return lanes[lane - place];
}
