// Philox 4x32-10 (Salmon et al., 2011), the twin of philox.rs: a word is a pure function of
// (seed, stream, step, element).

// The 64-bit product as (low, high), by 16-bit parts: no sum below exceeds 32 bits.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let low = a_low * b_low;
    let first = a_high * b_low + (low >> 16u);
    let second = a_low * b_high + (first & 0xffffu);
    return vec2<u32>(a * b, a_high * b_high + (first >> 16u) + (second >> 16u));
}

// Four random words from a 128-bit counter and a 64-bit key.
fn philox4x32_10(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var words = counter;
    var round_key = key;
    for (var round = 0u; round < 10u; round += 1u) {
        let first = wide_product(0xd2511f53u, words.x);
        let second = wide_product(0xcd9e8d57u, words.z);
        words = vec4<u32>(second.y ^ words.y ^ round_key.x, second.x, first.y ^ words.w ^ round_key.y, first.x);
        round_key += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return words;
}

// A word as a uniform number in [0, 1): its upper 24 bits times 2^-24, exact in f32.
fn unit_interval(word: u32) -> f32 {
    return f32(word >> 8u) * (1.0 / 16777216.0);
}
