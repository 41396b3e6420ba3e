// uses: shared/float_bits

// One value per thread combined over a workgroup, by halves: the order depends on the number of threads alone.
//
// A kernel that uses this declares `const LANES: u32`, its number of threads, a power of two. Every thread of the
// workgroup calls the function and gets the result. LANES / 2 + .. + 1 operations, log2(LANES) + 2 barriers.

var<workgroup> lanes: array<f32, LANES>;

fn tree_sum(lane: u32, value: f32) -> f32 {
    // Whoever still reads the previous result has done so after this.
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            lanes[lane] += lanes[lane + width];
        }
    }
    workgroupBarrier();
    return lanes[0];
}

// NaN where any is.
fn tree_max(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            lanes[lane] = max_f32(lanes[lane], lanes[lane + width]);
        }
    }
    workgroupBarrier();
    return lanes[0];
}

// NaN where any is.
fn tree_min(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            lanes[lane] = min_f32(lanes[lane], lanes[lane + width]);
        }
    }
    workgroupBarrier();
    return lanes[0];
}

fn tree_product(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    lanes[lane] = value;
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            lanes[lane] *= lanes[lane + width];
        }
    }
    workgroupBarrier();
    return lanes[0];
}
