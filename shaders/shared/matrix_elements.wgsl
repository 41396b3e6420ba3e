// uses: shared/activation, shared/matrices

// b and c of a matmul kernel that reads and writes single elements.

@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

// Writes up to four neighbours of a row of c.
fn store(batch: u32, row: u32, column: u32, values: vec4<f32>) {
    if row >= params.m {
        return;
    }
    let at = (batch * params.m + row) * params.n + column;
    if column < params.n {
        c[at] = activate(ACTIVATION, values.x);
    }
    if column + 1u < params.n {
        c[at + 1u] = activate(ACTIVATION, values.y);
    }
    if column + 2u < params.n {
        c[at + 2u] = activate(ACTIVATION, values.z);
    }
    if column + 3u < params.n {
        c[at + 3u] = activate(ACTIVATION, values.w);
    }
}
