// The gradient that an update works with, the twin of `Step::gradient` in sgd.rs.

// Scaled by the clipping of the norm, then limited by value, then with the gradients of the penalties: l1 sign(p) and
// l2 p. Only finite gradients come here.
fn penalised_gradient(gradient: f32, clip: f32, limit: f32, before: f32, l1: f32, l2: f32) -> f32 {
    let scaled = gradient * clip;
    let limited = select(select(scaled, -limit, scaled < -limit), limit, scaled > limit);
    let sign = select(select(0.0, -1.0, before < 0.0), 1.0, before > 0.0);
    return limited + l1 * sign + l2 * before;
}
