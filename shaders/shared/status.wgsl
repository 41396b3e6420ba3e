// Reports of elements outside their range, the twin of status.rs.
//
// A kernel that uses this declares `var<storage, read_write> status: array<atomic<u32>>`: the code of the op that
// reported first (0: none), the largest offending value, the bound, one word unused.

// The first op to report keeps the word. All threads of a dispatch report one code and one bound, and a maximum has no
// order, so the words do not depend on the order of the threads.
fn report(code: u32, value: u32, bound: u32) {
    let before = atomicLoad(&status[0]);
    if before != 0u && before != code {
        return;
    }
    atomicStore(&status[0], code);
    atomicMax(&status[1], value);
    atomicStore(&status[2], bound);
}
