// Rows shared out to threads: LANES threads side by side work on one row, so that a workgroup of 64 has 64 / LANES rows.
//
// Many threads to a row suit a GPU and long rows; one thread to a row needs neither barriers nor workgroup memory, both
// of which are slow on a driver in software.

override LANES: u32 = 64u;

// Threads of a workgroup.
const GROUP: u32 = 64u;

// The row of a thread. Past the end for a thread too many, which takes part in barriers and writes nothing.
fn row_of(workgroup: u32, lane: u32) -> u32 {
    return workgroup * (GROUP / LANES) + lane / LANES;
}
