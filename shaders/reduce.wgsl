// uses: shared/reduction, shared/tree, shared/index

// The sum (times a factor), an extreme or the product over the trailing dimensions of a strided tensor.
//
// Shapes: source [kept.., reduced..], any strides; result [kept..], contiguous.
// Threads: one workgroup of 256 per output; thread t takes elements t, t + 256, .., then a tree joins the threads.
// Bytes: 4 per element read, 4 per output written. Operations: one per element; a division per element and dimension
// where several reduced dimensions did not collapse into one.

const LANES: u32 = 256u;
const GROUP: u32 = 256u;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count);
    if index >= params.outputs {
        return;
    }
    let part = reduce_every(index, lane, LANES);
    var total: f32;
    if REDUCTION == REDUCTION_MAX {
        total = tree_max(lane, part);
    } else if REDUCTION == REDUCTION_MIN {
        total = tree_min(lane, part);
    } else if REDUCTION == REDUCTION_PROD {
        total = tree_product(lane, part);
    } else {
        total = tree_sum(lane, part);
    }
    if lane == 0u {
        result[index] = total * params.scale;
    }
}
