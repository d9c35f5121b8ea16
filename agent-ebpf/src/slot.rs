//! Words in memory that the programs share with each other, or that the verifier must not follow.

use core::cell::UnsafeCell;

/// A value that is read and written whole, by volatile loads and stores.
///
/// Two kinds of memory are made of slots. Entries of maps: other processors write them while a program reads, so no
/// reference to the plain value may exist. Scratch memory: the verifier does not follow what lies in a map, so a loop
/// variable there has one state to it instead of one for each value.
///
/// A `T` of up to eight aligned bytes is never torn. The order of two slots' writes is not kept on every processor.
#[repr(transparent)]
pub struct Slot<T>(UnsafeCell<T>);

impl<T: Copy> Slot<T> {
    /// A slot that holds `value`.
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

    /// The address of the value, for helpers that fill it.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

// SAFETY: a slot is shared memory by its nature, and only copies leave it.
unsafe impl<T: Copy + Send> Sync for Slot<T> {}
