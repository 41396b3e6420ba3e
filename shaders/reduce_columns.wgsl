// uses: shared/reduction, shared/index

// The sum (times a factor), an extreme or the product over the trailing dimensions of a strided tensor, for short reductions, for
// outputs that are neighbours in memory, and for most reductions on a driver in software (slow workgroup memory).
//
// Shapes: source [kept.., reduced..], any strides; result [kept..], contiguous.
// Threads: one per output, 64 to a workgroup; no workgroup memory. Where outputs are neighbours in memory, reads are.
// llvmpipe ends a thread's loops after 65,535 rounds, without a word: there, long reductions are for reduce.wgsl.
// Bytes: 4 per element read, 4 per output written. Operations: one per element; a division per element and dimension
// where several reduced dimensions did not collapse into one.

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 64u + lane;
    if index >= params.outputs {
        return;
    }
    result[index] = reduce_every(index, 0u, 1u) * params.scale;
}
