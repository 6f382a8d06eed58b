//! Row-major `f32` matrix views: the only currency between the rooms of the forward pass.
//!
//! A view is a pointer, a shape and a row stride, so heads are column ranges, sequences are row ranges,
//! and a fused q|k|v product is three views of one buffer. [`MatMut`] can be split by rows *and* by
//! columns; the halves never share an element, which is what lets threads write one product together.
//!
//! This is deliberately not a tensor type: two dimensions, one element type, no broadcasting, no ops
//! (those are in `kernel/`), no ownership except the small [`Matrix`] buffer.
#![allow(unsafe_code)] // column ranges of one buffer cannot be expressed as disjoint `&mut [f32]`

use std::{marker::PhantomData, ops::Range};

/// A borrowed row-major matrix. Rows lie `stride` elements apart; `cols <= stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    ptr: *const f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a f32>,
}

/// A mutably borrowed row-major matrix. It owns exactly the elements `(r, c)` with `r < rows`, `c < cols`.
pub struct MatMut<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a mut f32>,
}

// SAFETY: a `Mat` is a shared borrow of `f32`s, which are `Sync`.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mat<'_> {}
// SAFETY: a `MatMut` is an exclusive borrow of the elements it names; no other view names them.
unsafe impl Send for MatMut<'_> {}
// SAFETY: `&MatMut` only gives out shared borrows.
unsafe impl Sync for MatMut<'_> {}

impl<'a> Mat<'a> {
    /// A contiguous `rows` x `cols` matrix.
    ///
    /// # Panics
    /// When `data` has not exactly `rows * cols` elements.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix of {rows} x {cols}");
        Self {
            ptr: data.as_ptr(),
            rows,
            cols,
            stride: cols,
            life: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the start of one row to the start of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The first element; rows are `stride()` apart, each holding `cols()` readable elements.
    pub fn as_ptr(&self) -> *const f32 {
        self.ptr
    }

    /// Row `r` as a slice of `cols()` elements.
    pub fn row(&self, r: usize) -> &'a [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: r < rows, so the row lies inside the borrow this view was made from.
        unsafe { std::slice::from_raw_parts(self.ptr.add(r * self.stride), self.cols) }
    }

    /// The rows in `range`.
    pub fn row_range(&self, range: Range<usize>) -> Mat<'a> {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {range:?} of {}",
            self.rows
        );
        // `wrapping_add`: an empty range at the end may point past the last row.
        Mat {
            ptr: self.ptr.wrapping_add(range.start * self.stride),
            rows: range.len(),
            ..*self
        }
    }

    /// The columns in `range`, every row.
    pub fn col_range(&self, range: Range<usize>) -> Mat<'a> {
        assert!(
            range.start <= range.end && range.end <= self.cols,
            "cols {range:?} of {}",
            self.cols
        );
        Mat {
            ptr: self.ptr.wrapping_add(range.start),
            cols: range.len(),
            ..*self
        }
    }
}

impl<'a> MatMut<'a> {
    /// A contiguous `rows` x `cols` matrix.
    ///
    /// # Panics
    /// When `data` has not exactly `rows * cols` elements.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix of {rows} x {cols}");
        Self {
            ptr: data.as_mut_ptr(),
            rows,
            cols,
            stride: cols,
            life: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the start of one row to the start of the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The first element, writable; see [`Mat::as_ptr`].
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.ptr
    }

    /// A shorter exclusive borrow of the same elements.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            life: PhantomData,
            ..*self
        }
    }

    /// A shared view of the same elements.
    pub fn as_ref(&self) -> Mat<'_> {
        Mat {
            ptr: self.ptr,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            life: PhantomData,
        }
    }

    /// Row `r`, writable.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        // SAFETY: r < rows, and `self` is borrowed exclusively for the life of the slice.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(r * self.stride), self.cols) }
    }

    /// The rows in `range`, consuming this borrow (use [`MatMut::reborrow`] to keep it).
    pub fn row_range(self, range: Range<usize>) -> MatMut<'a> {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "rows {range:?} of {}",
            self.rows
        );
        MatMut {
            ptr: self.ptr.wrapping_add(range.start * self.stride),
            rows: range.len(),
            ..self
        }
    }

    /// The columns in `range`, consuming this borrow.
    pub fn col_range(self, range: Range<usize>) -> MatMut<'a> {
        assert!(
            range.start <= range.end && range.end <= self.cols,
            "cols {range:?} of {}",
            self.cols
        );
        MatMut {
            ptr: self.ptr.wrapping_add(range.start),
            cols: range.len(),
            ..self
        }
    }

    /// Two disjoint halves: rows before `at`, and the rest.
    pub fn split_rows(self, at: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(at <= self.rows, "split at row {at} of {}", self.rows);
        let rest = MatMut {
            ptr: self.ptr.wrapping_add(at * self.stride),
            rows: self.rows - at,
            ..self
        };
        (MatMut { rows: at, ..self }, rest)
    }

    /// Two disjoint halves: columns before `at`, and the rest. The halves interleave in memory but share no element.
    pub fn split_cols(self, at: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(at <= self.cols, "split at column {at} of {}", self.cols);
        let rest = MatMut {
            ptr: self.ptr.wrapping_add(at),
            cols: self.cols - at,
            ..self
        };
        (MatMut { cols: at, ..self }, rest)
    }

    /// Copies every element of `from`, which must have the same shape.
    pub fn copy_from(&mut self, from: Mat<'_>) {
        assert_eq!(
            (self.rows, self.cols),
            (from.rows, from.cols),
            "copy between unlike shapes"
        );
        for r in 0..self.rows {
            self.row_mut(r).copy_from_slice(from.row(r));
        }
    }
}

impl std::fmt::Debug for Mat<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Mat[{} x {}, stride {}]",
            self.rows, self.cols, self.stride
        )
    }
}

impl std::fmt::Debug for MatMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "MatMut[{} x {}, stride {}]",
            self.rows, self.cols, self.stride
        )
    }
}

/// An owned, contiguous matrix: scratch between ops. Growing keeps the allocation, so a reused buffer
/// stops allocating once it has seen the largest batch.
#[derive(Debug, Default, Clone)]
pub struct Matrix {
    /// At least `rows * cols`: what is beyond is left from a larger shape.
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl PartialEq for Matrix {
    fn eq(&self, other: &Self) -> bool {
        let shape = |m: &Self| (m.rows, m.cols);
        shape(self) == shape(other) && self.as_slice() == other.as_slice()
    }
}

impl Matrix {
    /// A `rows` x `cols` matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            data: vec![0.0; rows * cols],
            rows,
            cols,
        }
    }

    /// Wraps `data` of exactly `rows * cols` elements.
    pub fn from_vec(data: Vec<f32>, rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix of {rows} x {cols}");
        Self { data, rows, cols }
    }

    /// Gives the buffer this shape; what it holds afterwards is unspecified, so every element must be written.
    pub fn reshape(&mut self, rows: usize, cols: usize) -> MatMut<'_> {
        // Never shortened: growing again would fill it with zeros that nobody reads.
        if self.data.len() < rows * cols {
            self.data.resize(rows * cols, 0.0);
        }
        (self.rows, self.cols) = (rows, cols);
        self.view_mut()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..][..self.cols]
    }

    /// All elements, row after row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// A shared view.
    pub fn view(&self) -> Mat<'_> {
        Mat::new(self.as_slice(), self.rows, self.cols)
    }

    /// An exclusive view.
    pub fn view_mut(&mut self) -> MatMut<'_> {
        let elements = self.rows * self.cols;
        MatMut::new(&mut self.data[..elements], self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_halves_write_disjoint_elements() {
        let mut m = Matrix::zeros(3, 5);
        let (mut left, mut right) = m.view_mut().split_cols(2);
        for r in 0..3 {
            left.row_mut(r).fill(1.0);
            right.row_mut(r).fill(2.0);
        }
        for r in 0..3 {
            assert_eq!(m.row(r), [1.0, 1.0, 2.0, 2.0, 2.0]);
        }
    }

    #[test]
    fn ranges_of_ranges_address_the_right_element() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let m = Mat::new(&data, 4, 6).row_range(1..4).col_range(2..5);
        assert_eq!(m.row(2), [20.0, 21.0, 22.0]);
        assert_eq!((m.rows(), m.cols(), m.stride()), (3, 3, 6));
        assert_eq!(m.row_range(3..3).rows(), 0);
    }

    #[test]
    #[should_panic(expected = "row 4 of 4")]
    fn a_row_past_the_end_panics() {
        let data = [0.0; 8];
        Mat::new(&data, 4, 2).row(4);
    }
}
