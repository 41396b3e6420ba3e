// The words of the control block, the twin of control.rs.

const ATTEMPT: u32 = 0u;
const COMMITTED: u32 = 1u;
const VERDICT: u32 = 2u;
const HELD: u32 = 3u;
const CLIP: u32 = 4u;
const NORM: u32 = 5u;
const START: u32 = 6u;
const ROWS: u32 = 7u;
const CURRENT: u32 = 16u;
const ROW_WORDS: u32 = 4u;
const RECORD_WORDS: u32 = 16u;

const VERDICT_COMMIT: u32 = 0u;
const VERDICT_REJECT: u32 = 1u;
const VERDICT_HOLD: u32 = 2u;

const FAULT_GRADIENT: u32 = 1u;
const FAULT_LOSS: u32 = 2u;
const FAULT_NORM: u32 = 4u;
const FAULT_DATA: u32 = 8u;
const FAULT_SCHEDULE: u32 = 16u;
const FAULT_HELD: u32 = 32u;
const FAULT_BUFFER: u32 = 64u;
