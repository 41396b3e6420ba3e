// Numbers of three digits whose last two have bases of their own, such as (channel, row, column): a loop that counts in them
// divides once, before it begins.

// The digits of a number; `bases` are those of the last two.
fn digits(number: u32, bases: vec2<u32>) -> vec3<u32> {
    let upper = number / bases.y;
    return vec3<u32>(upper / bases.x, upper % bases.x, number % bases.y);
}

// The sum of two numbers.
fn plus(left: vec3<u32>, right: vec3<u32>, bases: vec2<u32>) -> vec3<u32> {
    var sum = left + right;
    if sum.z >= bases.y {
        sum.z -= bases.y;
        sum.y += 1u;
    }
    if sum.y >= bases.x {
        sum.y -= bases.x;
        sum.x += 1u;
    }
    return sum;
}
