//! The agent's allocator: mimalloc. musl's own is slow, and Core makes many small boxes.
//!
//! The crate `mimalloc` asks for an alignment with each allocation. mimalloc then looks for a block that happens to be aligned,
//! and if its list is empty or the block is large, it takes a larger one: that is a twentieth of Core's instructions. Nearly all
//! allocations ask for no more alignment than every block has.

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_void,
};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// Alignment that each block has which is at least as long, as C's `max_align_t` asks
/// (`MI_MAX_ALIGN_SIZE`, <https://github.com/microsoft/mimalloc/blob/main/include/mimalloc/types.h>).
const BLOCK_ALIGN: usize = 16;

/// The allocator. A program takes it by `#[global_allocator]`.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Returns whether each block of this size is aligned enough. A block of 8 bytes is aligned to 8.
#[inline]
fn is_aligned_anyway(size: usize, align: usize) -> bool {
    align <= BLOCK_ALIGN && align <= size
}

// SAFETY: mimalloc returns null or a block of its own of this size, which is aligned as asked: by `is_aligned_anyway`, or
// because it was told to. A block stays valid until it is freed or reallocated. No function unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: both take any size; the alignment of a layout is a power of two.
        let block = unsafe {
            if is_aligned_anyway(size, align) {
                mi_malloc(size)
            } else {
                mi_malloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as in `alloc`.
        let block = unsafe {
            if is_aligned_anyway(size, align) {
                mi_zalloc(size)
            } else {
                mi_zalloc_aligned(size, align)
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller passes a block of this allocator, and uses it no more. All functions above make blocks that
        // `mi_free` takes.
        unsafe { mi_free(block.cast::<c_void>()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let block = block.cast::<c_void>();
        let align = layout.align();
        // SAFETY: the caller passes a block of this allocator, and uses it no more unless null comes back: then it is as
        // before.
        let block = unsafe {
            if is_aligned_anyway(new_size, align) {
                mi_realloc(block, new_size)
            } else {
                mi_realloc_aligned(block, new_size, align)
            }
        };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a block with bytes that depend on their place.
    fn fill(block: *mut u8, size: usize) {
        // SAFETY: the block has this size, and nobody else looks at it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
        (0..).zip(bytes).for_each(|(at, byte): (usize, _)| *byte = at as u8);
    }

    /// Returns whether the first bytes of a block are those that [`fill`] wrote.
    fn is_filled(block: *const u8, size: usize) -> bool {
        // SAFETY: the block has at least this size, and its bytes were written.
        let bytes = unsafe { std::slice::from_raw_parts(block, size) };
        (0..).zip(bytes).all(|(at, byte): (usize, _)| *byte == at as u8)
    }

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        // Many of each size at a time, so that not only the first one of a page is looked at.
        const EACH: usize = 40;
        let sizes = (1..200).chain([255, 256, 1000, 1024, 1025, 4096, 5000, 70_000]);
        for (size, align) in sizes.flat_map(|size| (0..=8).map(move |bits| (size, 1 << bits))) {
            let layout = Layout::from_size_align(size, align).unwrap();
            let larger = Layout::from_size_align(2 * size + 1, align).unwrap();
            let mut blocks = Vec::new();
            for _ in 0..EACH {
                // SAFETY: the layouts are not empty, each block is freed once, with the layout that it has last.
                unsafe {
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert!((0..size).all(|at| *zeroed.add(at) == 0), "{size} bytes are not zero");
                    let block = Allocator.alloc(layout);
                    fill(block, size);
                    let block = Allocator.realloc(block, layout, larger.size());
                    assert!(is_filled(block, size), "{size} bytes were not moved");
                    blocks.push((zeroed, layout));
                    blocks.push((block, larger));
                }
            }
            for (block, layout) in blocks {
                assert!((block as usize).is_multiple_of(align), "{layout:?} at {block:?}");
                fill(block, layout.size());
                // SAFETY: see above.
                unsafe { Allocator.dealloc(block, layout) };
            }
        }
    }
}
