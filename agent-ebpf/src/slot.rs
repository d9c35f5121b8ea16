//! Words in memory that programs share, or whose values the verifier must not follow.

use core::cell::UnsafeCell;

/// A value that is read and written whole, by volatile loads and stores.
///
/// Two kinds of memory consist of slots. Entries of maps: other processors write them while a program reads, so no
/// reference to the plain value may exist. Scratch memory: the verifier does not follow values in a map, so a loop
/// variable there has one state, not one for each value.
///
/// A `T` of up to eight aligned bytes is never torn. Some processors (64-bit ARM) reorder the writes of two slots.
#[repr(transparent)]
pub struct Slot<T>(UnsafeCell<T>);

impl<T: Copy> Slot<T> {
    /// Creates a slot that holds `value`.
    #[inline(always)]
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Loads the value.
    #[inline(always)]
    pub fn get(&self) -> T {
        // SAFETY: the cell is valid for reads; a word that another processor writes meanwhile is read before or after.
        unsafe { self.0.get().read_volatile() }
    }

    /// Stores a value.
    #[inline(always)]
    pub fn set(&self, value: T) {
        // SAFETY: the cell is valid for writes, and no reference to its inside is ever given out.
        unsafe { self.0.get().write_volatile(value) }
    }

    /// Returns the address of the value, for helpers that fill it.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

// SAFETY: a slot is shared memory, and hands out copies only.
unsafe impl<T: Copy + Send> Sync for Slot<T> {}
