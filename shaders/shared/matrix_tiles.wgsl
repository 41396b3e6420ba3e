// uses: shared/matrix_elements

// How the threads of a workgroup read a tile of A (TILE x DEPTH) and one of B (DEPTH x TILE), four elements each.
//
// A kernel that uses this declares `const TILE: u32` and `const DEPTH: u32`, and has TILE * DEPTH / 4 threads.

// Where a thread reads its four elements of a tile: (step of K, first row of A or column of B).
fn place_in_tile(lane: u32, outer_stride: u32, depth_stride: u32) -> vec2<u32> {
    if depth_stride < outer_stride {
        return vec2<u32>(lane % DEPTH, lane / DEPTH * 4u);
    }
    return vec2<u32>(lane / (TILE / 4u), lane % (TILE / 4u) * 4u);
}

// Four elements, from row `row` of A at step `depth`; 0 outside.
fn read_a(start: u32, row: u32, depth: u32) -> vec4<f32> {
    var values = vec4<f32>();
    if depth >= params.k {
        return values;
    }
    let at = start + row * params.a_row + depth * params.a_column;
    if row < params.m {
        values.x = element_of_a(at);
    }
    if row + 1u < params.m {
        values.y = element_of_a(at + params.a_row);
    }
    if row + 2u < params.m {
        values.z = element_of_a(at + 2u * params.a_row);
    }
    if row + 3u < params.m {
        values.w = element_of_a(at + 3u * params.a_row);
    }
    return values;
}

// Four elements, from column `column` of B at step `depth`; 0 outside.
fn read_b(start: u32, column: u32, depth: u32) -> vec4<f32> {
    var values = vec4<f32>();
    if depth >= params.k {
        return values;
    }
    let at = start + depth * params.b_row + column * params.b_column;
    if column < params.n {
        values.x = element_of_b(at);
    }
    if column + 1u < params.n {
        values.y = element_of_b(at + params.b_column);
    }
    if column + 2u < params.n {
        values.z = element_of_b(at + 2u * params.b_column);
    }
    if column + 3u < params.n {
        values.w = element_of_b(at + 3u * params.b_column);
    }
    return values;
}
