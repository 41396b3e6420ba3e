// uses: shared/float_bits, shared/index

// What reduce.wgsl and reduce_columns.wgsl have in common: parameters, bindings and the loop of one thread.

// 0 sum, 1 maximum, 2 minimum, 3 product: the numbers of `Reduction` in reduce.rs.
override REDUCTION: u32 = 0u;
// 1: the elements of an output are evenly spaced, so that none of them needs a division.
override EVEN: u32 = 0u;

const REDUCTION_MAX: u32 = 1u;
const REDUCTION_MIN: u32 = 2u;
const REDUCTION_PROD: u32 = 3u;
// Terms added one after the other before such partial sums are added up: the error of a long sum stays small.
const STRETCH: u32 = 128u;

struct Params {
    outputs: u32, // elements of the result
    count: u32, // elements per output
    offset: u32, // position of the first element of the source
    scale: f32, // factor on the result
    kept_dims: array<vec4<u32>, 2>,
    kept_strides: array<vec4<u32>, 2>,
    reduced_dims: array<vec4<u32>, 2>,
    reduced_strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

fn combine(a: f32, b: f32) -> f32 {
    if REDUCTION == REDUCTION_MAX {
        return max_f32(a, b);
    }
    if REDUCTION == REDUCTION_MIN {
        return min_f32(a, b);
    }
    if REDUCTION == REDUCTION_PROD {
        return a * b;
    }
    return a + b;
}

// The result of nothing.
fn nothing() -> f32 {
    if REDUCTION == REDUCTION_MAX {
        return f32_from_bits(0xff800000u);
    }
    if REDUCTION == REDUCTION_MIN {
        return infinity_f32();
    }
    if REDUCTION == REDUCTION_PROD {
        return 1.0;
    }
    return 0.0;
}

// Elements first, first + step, .. of those that belong to output `index`.
fn reduce_every(index: u32, first: u32, step: u32) -> f32 {
    let start = params.offset + position(index, params.kept_dims, params.kept_strides);
    var total = nothing();
    var at = first;
    while at < params.count {
        var partial = nothing();
        for (var term = 0u; term < STRETCH && at < params.count; term += 1u) {
            var place = start + at * params.reduced_strides[1].y;
            if EVEN == 0u {
                place = start + position(at, params.reduced_dims, params.reduced_strides);
            }
            partial = combine(partial, source[place]);
            at += step;
        }
        total = combine(total, partial);
    }
    return total;
}
