//! Images moved about: planes of height x width values in C order, however many.

/// Turns every row round, left to right.
pub(crate) fn flip_horizontal(values: &mut [f32], width: usize) {
    values.chunks_exact_mut(width.max(1)).for_each(<[f32]>::reverse);
}

/// Turns every column round, top to bottom.
pub(crate) fn flip_vertical(values: &mut [f32], [height, width]: [usize; 2]) {
    for plane in values.chunks_exact_mut((height * width).max(1)) {
        let (upper, lower) = plane.split_at_mut(height / 2 * width);
        let lower_rows = lower.chunks_exact_mut(width.max(1)).rev();
        for (above, below) in upper.chunks_exact_mut(width.max(1)).zip(lower_rows) {
            above.swap_with_slice(below);
        }
    }
}

/// Cuts `size` values a plane out of the images with `padding` zeros on every side, from row and column `corner` of the
/// padded image on. `destination` comes filled with zeros.
pub(crate) fn crop(
    source: &[f32],
    [height, width]: [usize; 2],
    padding: usize,
    [top, left]: [usize; 2],
    destination: &mut [f32],
    size: [usize; 2],
) {
    if source.is_empty() || destination.is_empty() {
        return;
    }
    // The columns of the destination that lie in the image and not in its margin.
    let first = padding.saturating_sub(left);
    let last = (padding + width).saturating_sub(left).min(size[1]);
    let planes = source.chunks_exact(height * width).zip(destination.chunks_exact_mut(size[0] * size[1]));
    for (plane, cut) in planes.filter(|_| first < last) {
        for (row, line) in cut.chunks_exact_mut(size[1]).enumerate() {
            let Some(from) = (top + row).checked_sub(padding).filter(|&from| from < height) else {
                continue;
            };
            let start = from * width + left + first - padding;
            line[first..last].copy_from_slice(&plane[start..start + last - first]);
        }
    }
}

/// Turns the images by `degrees` anticlockwise around their centre, by bilinear interpolation; what comes from outside
/// is zero. `destination` is as large as `source`.
///
/// With rows downwards, the value at (x, y) from the centre comes from (x cos a - y sin a, x sin a + y cos a).
pub(crate) fn rotate(source: &[f32], [height, width]: [usize; 2], degrees: f64, destination: &mut [f32]) {
    if degrees == 0.0 {
        destination.copy_from_slice(source);
        return;
    }
    let (sine, cosine) = degrees.to_radians().sin_cos();
    let centre = [(height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0];
    let length = (height * width).max(1);
    for (plane, turned) in source.chunks_exact(length).zip(destination.chunks_exact_mut(length)) {
        for (row, line) in turned.chunks_exact_mut(width).enumerate() {
            let y = row as f64 - centre[0];
            for (column, value) in line.iter_mut().enumerate() {
                let x = column as f64 - centre[1];
                let place = [x * sine + y * cosine + centre[0], x * cosine - y * sine + centre[1]];
                *value = bilinear(plane, [height, width], place);
            }
        }
    }
}

/// The value at row and column `place` between the values of a plane, zeros outside.
fn bilinear(plane: &[f32], [height, width]: [usize; 2], place: [f64; 2]) -> f32 {
    let [top, left] = place.map(f64::floor);
    let [down, right] = [place[0] - top, place[1] - left];
    let mut sum = 0.0;
    for (row, vertical) in [(top, 1.0 - down), (top + 1.0, down)] {
        for (column, horizontal) in [(left, 1.0 - right), (left + 1.0, right)] {
            let inside = row >= 0.0 && row < height as f64 && column >= 0.0 && column < width as f64;
            let weight = vertical * horizontal;
            // An infinity or NaN beside the place has no part in it.
            if inside && weight != 0.0 {
                sum += weight * f64::from(plane[row as usize * width + column as usize]);
            }
        }
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIX: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    fn numbers(length: usize) -> Vec<f32> {
        (1..=length).map(|value| value as f32).collect()
    }

    fn turned(source: &[f32], size: [usize; 2], degrees: f64) -> Vec<f32> {
        let mut destination = vec![7.0; source.len()];
        rotate(source, size, degrees, &mut destination);
        destination
    }

    fn close(found: &[f32], expected: &[f32]) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(found.len() == expected.len() && found.iter().zip(expected).all(near), "{found:?} {expected:?}");
    }

    #[test]
    fn flips_by_hand() {
        let mut values = SIX;
        flip_horizontal(&mut values, 3);
        assert_eq!(values, [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        let mut values = SIX;
        flip_vertical(&mut values, [2, 3]);
        assert_eq!(values, [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
        // Three rows: the middle one stays. Two planes of one row each: nothing moves.
        let mut values = SIX;
        flip_vertical(&mut values, [3, 2]);
        assert_eq!(values, [5.0, 6.0, 3.0, 4.0, 1.0, 2.0]);
        let mut values = SIX;
        flip_vertical(&mut values, [1, 3]);
        assert_eq!(values, SIX);
    }

    #[test]
    fn flips_twice_are_nothing() {
        for (planes, height, width) in [(1, 1, 1), (2, 3, 5), (3, 4, 7), (1, 8, 1), (0, 3, 3), (2, 0, 3), (2, 3, 0)] {
            let source = numbers(planes * height * width);
            let mut values = source.clone();
            (0..2).for_each(|_| flip_horizontal(&mut values, width));
            assert_eq!(values, source);
            (0..2).for_each(|_| flip_vertical(&mut values, [height, width]));
            assert_eq!(values, source);
            // Both at once are half a turn.
            flip_horizontal(&mut values, width);
            flip_vertical(&mut values, [height, width]);
            close(&turned(&source, [height, width], 180.0), &values);
        }
    }

    #[test]
    fn crops_by_hand() {
        let cut = |padding, corner, size: [usize; 2]| {
            let mut destination = vec![0.0; size[0] * size[1]];
            crop(&SIX, [2, 3], padding, corner, &mut destination, size);
            destination
        };
        assert_eq!(cut(0, [0, 0], [2, 3]), SIX);
        assert_eq!(cut(0, [0, 1], [1, 2]), [2.0, 3.0]);
        assert_eq!(cut(0, [1, 0], [1, 2]), [4.0, 5.0]);
        assert_eq!(cut(1, [0, 0], [2, 3]), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
        assert_eq!(cut(1, [2, 2], [2, 3]), [5.0, 6.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(cut(1, [1, 1], [2, 3]), SIX);
        // A margin wider than the cut: it may lie outside altogether.
        assert_eq!(cut(4, [0, 0], [2, 2]), [0.0; 4]);
        assert_eq!(cut(4, [8, 9], [2, 2]), [0.0; 4]);
        assert_eq!(cut(4, [3, 6], [2, 2]), [0.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn crops_are_slices_of_the_padded_image() {
        let (planes, height, width, padding) = (2, 3, 4, 2);
        let source = numbers(planes * height * width);
        let at = |plane: usize, row: usize, column: usize| {
            let (row, column) = (row.checked_sub(padding), column.checked_sub(padding));
            match (row.filter(|&row| row < height), column.filter(|&column| column < width)) {
                (Some(row), Some(column)) => source[(plane * height + row) * width + column],
                _ => 0.0,
            }
        };
        for size in [[1, 1], [2, 3], [5, 8], [7, 8]] {
            for (top, left) in (0..=7 - size[0]).flat_map(|top| (0..=8 - size[1]).map(move |left| (top, left))) {
                let mut destination = vec![0.0; planes * size[0] * size[1]];
                crop(&source, [height, width], padding, [top, left], &mut destination, size);
                let mut values = destination.iter();
                for (plane, row) in (0..planes).flat_map(|plane| (0..size[0]).map(move |row| (plane, row))) {
                    for column in 0..size[1] {
                        assert_eq!(*values.next().unwrap(), at(plane, top + row, left + column));
                    }
                }
            }
        }
        crop(&[], [0, 3], 1, [0, 0], &mut [0.0; 4], [2, 2]);
    }

    #[test]
    fn quarter_turns_by_hand() {
        // 1 2 3    3 6 9
        // 4 5 6 -> 2 5 8, anticlockwise.
        // 7 8 9    1 4 7
        let nine = numbers(9);
        close(&turned(&nine, [3, 3], 90.0), &[3.0, 6.0, 9.0, 2.0, 5.0, 8.0, 1.0, 4.0, 7.0]);
        close(&turned(&nine, [3, 3], -90.0), &[7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0]);
        close(&turned(&numbers(8), [2, 2], 90.0), &[2.0, 4.0, 1.0, 3.0, 6.0, 8.0, 5.0, 7.0]);
        // A row of three stands up in the middle, and its ends have left the image.
        close(&turned(&[1.0, 2.0, 3.0], [1, 3], 90.0), &[0.0, 2.0, 0.0]);
    }

    /// An eighth of a turn. In Python, for place (row r, column c) of the result and a = pi / 4:
    /// ```python
    /// x, y = c - 1, r - 1
    /// row, column = x * sin(a) + y * cos(a) + 1, x * cos(a) - y * sin(a) + 1
    /// i, j = floor(row), floor(column)
    /// sum((1 - abs(row - k)) * (1 - abs(column - l)) * (3 * k + l + 1)
    ///     for k in (i, i + 1) for l in (j, j + 1) if 0 <= k < 3 and 0 <= l < 3)
    /// ```
    #[test]
    fn an_eighth_of_a_turn_from_python() {
        let expected = [1.171573, 3.585786, 3.514719, 2.171573, 5.000000, 7.828427, 2.343146, 6.414214, 4.686292];
        close(&turned(&numbers(9), [3, 3], 45.0), &expected);
    }

    #[test]
    fn no_turn_keeps_every_bit() {
        let source = [-0.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0];
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&turned(&source, [2, 2], 0.0)), bits(&source));
    }
}
