// uses: shared/control, shared/index

// Ends a step for the buffers that its forward pass changed: a commit makes the pending ones the committed ones, a refusal
// the other way round.
//
// Shapes: the control block (control.rs); committed, pending u32 [count].
// Threads: one per element, 256 to a workgroup.
// Bytes: 8 per element. Operations: none.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> control: array<u32>;
@group(0) @binding(1) var<storage, read_write> committed: array<u32>;
@group(0) @binding(2) var<storage, read_write> pending: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = workgroup_number(id, count) * 256u + lane;
    if index >= params.count {
        return;
    }
    if control[VERDICT] == VERDICT_COMMIT {
        committed[index] = pending[index];
    } else {
        pending[index] = committed[index];
    }
}
