// Where a thread works, and where an element lies.

// The number of a workgroup in a grid that may be folded into two dimensions. Those past the end do nothing.
fn workgroup_number(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + id.y * count.x;
}

// The position of element `index` of up to 6 dimensions, the last fastest: words 0..6 of two vec4, unused leading
// dimensions 1. One dimension, the usual case after collapsing, costs no division.
fn position(index: u32, dims: array<vec4<u32>, 2>, strides: array<vec4<u32>, 2>) -> u32 {
    if index < dims[1].y {
        return index * strides[1].y;
    }
    var rest = index / dims[1].y;
    var place = index % dims[1].y * strides[1].y;
    place += rest % dims[1].x * strides[1].x;
    rest /= dims[1].x;
    if rest == 0u {
        return place;
    }
    place += rest % dims[0].w * strides[0].w;
    rest /= dims[0].w;
    place += rest % dims[0].z * strides[0].z;
    rest /= dims[0].z;
    place += rest % dims[0].y * strides[0].y;
    rest /= dims[0].y;
    return place + rest % dims[0].x * strides[0].x;
}
