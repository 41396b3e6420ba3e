// uses: shared/float_bits, shared/index, shared/status

// Sums of the elements that indices send to a place: result[o, b, i] = sum over p of source[o, p, i] where b is
// indices[o, p, i], or indices[p] where whole rows are sent. The gradient of gather.wgsl. Terms are added in the order of
// p, without atomics, so the bits are the same in every run. An index outside 0..bound is reported, and what it could have
// been added to is NaN.
//
// Shapes: source [outer, count, inner], indices u32 [outer, count, inner] or [count], result [outer, bound, inner], all
// contiguous.
// Threads: one per four columns of a row of the result, 64 to a workgroup; each looks at every index that may lead
// there, four at a time: llvmpipe ends a thread's loops after 65,535 rounds, without a word, which leaves room for
// 262,000 places there.
// Bytes: the indices once per row of the result (from the cache), 4 per element of source and result. Operations: a
// comparison per index and thread, an addition per element of source.

// 1: one index serves the whole row [inner] of every `outer`.
override WHOLE_ROWS: u32 = 0u;

struct Params {
    outer: u32,
    bound: u32, // what indices must stay below
    count: u32, // places along the dimension
    inner: u32, // elements of a row
    missing: u32, // unused here
    code: u32, // by which this op reports
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

// The four columns of a thread: their sums, and whether an index that was out of range could have led to them.
var<private> totals: vec4<f32>;
var<private> wrong: vec4<bool>;

fn check_index(index: u32, target_row: u32) -> bool {
    if index < params.bound {
        return false;
    }
    if target_row == 0u {
        report(params.code, index, params.bound);
    }
    return true;
}

// Adds place `at` of `outer` to the columns from `column` on of row `target_row`.
fn add_place(outer: u32, at: u32, target_row: u32, column: u32) {
    if at >= params.count {
        return;
    }
    let row = (outer * params.count + at) * params.inner;
    let width = min(params.inner - column, 4u);
    if WHOLE_ROWS == 1u {
        let index = indices[at];
        wrong = wrong | vec4<bool>(check_index(index, target_row));
        if index == target_row {
            totals.x += source[row + column];
            if width > 1u {
                totals.y += source[row + column + 1u];
            }
            if width > 2u {
                totals.z += source[row + column + 2u];
            }
            if width > 3u {
                totals.w += source[row + column + 3u];
            }
        }
        return;
    }
    add_element(row + column, target_row, 0u);
    if width > 1u {
        add_element(row + column + 1u, target_row, 1u);
    }
    if width > 2u {
        add_element(row + column + 2u, target_row, 2u);
    }
    if width > 3u {
        add_element(row + column + 3u, target_row, 3u);
    }
}

fn add_element(element: u32, target_row: u32, part: u32) {
    let index = indices[element];
    let mine = vec4<bool>(part == 0u, part == 1u, part == 2u, part == 3u);
    if check_index(index, target_row) {
        wrong = wrong | mine;
    } else if index == target_row {
        totals = select(totals, totals + source[element], mine);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let quads = (params.inner + 3u) / 4u;
    let number = workgroup_number(id, count) * 64u + lane;
    let row = number / quads;
    if row >= params.outer * params.bound {
        return;
    }
    let outer = row / params.bound;
    let target_row = row - outer * params.bound;
    let column = (number - row * quads) * 4u;
    totals = vec4<f32>();
    wrong = vec4<bool>();
    for (var at = 0u; at < params.count; at += 4u) {
        add_place(outer, at, target_row, column);
        add_place(outer, at + 1u, target_row, column);
        add_place(outer, at + 2u, target_row, column);
        add_place(outer, at + 3u, target_row, column);
    }
    let values = select(totals, vec4<f32>(nan_f32()), wrong);
    let start = row * params.inner + column;
    result[start] = values.x;
    if column + 1u < params.inner {
        result[start + 1u] = values.y;
    }
    if column + 2u < params.inner {
        result[start + 2u] = values.z;
    }
    if column + 3u < params.inner {
        result[start + 3u] = values.w;
    }
}
