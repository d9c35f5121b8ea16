//! A value for each process.

use slotmap::SecondaryMap;

use super::ProcessId;

/// Table with a slot for each process: a look-up takes no hash.
#[derive(Debug, Default)]
pub struct ByProcess<T> {
    values: SecondaryMap<ProcessId, T>,
    /// Value of all processes that are forgotten: no room should still name one.
    of_forgotten: T,
}

impl<T: Default> ByProcess<T> {
    /// Returns the value of a process, if it has one.
    pub fn get(&self, process: ProcessId) -> Option<&T> {
        self.values.get(process)
    }

    /// Returns the value of a process, if it has one.
    pub fn get_mut(&mut self, process: ProcessId) -> Option<&mut T> {
        self.values.get_mut(process)
    }

    /// Returns the value of a process, which it gets now if it had none.
    #[inline]
    pub fn get_or_default(&mut self, process: ProcessId) -> &mut T {
        // Both looks at the slot are one once they are inlined: `SecondaryMap::entry` takes more.
        if !self.values.contains_key(process) {
            self.insert_default(process);
        }
        self.values.get_mut(process).unwrap_or(&mut self.of_forgotten)
    }

    #[cold]
    fn insert_default(&mut self, process: ProcessId) {
        self.values.insert(process, T::default());
        debug_assert!(self.contains(process), "{process:?} is forgotten, and still named");
    }

    /// Returns whether a process has a value.
    pub fn contains(&self, process: ProcessId) -> bool {
        self.values.contains_key(process)
    }

    /// Sets the value of a process.
    pub fn insert(&mut self, process: ProcessId, value: T) {
        self.values.insert(process, value);
    }

    /// Takes the value of a process.
    pub fn remove(&mut self, process: ProcessId) -> Option<T> {
        self.values.remove(process)
    }

    /// Drops the values for which `keep` returns false.
    pub fn retain(&mut self, keep: impl FnMut(ProcessId, &mut T) -> bool) {
        self.values.retain(keep);
    }

    /// Returns the values and their processes.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessId, &T)> {
        self.values.iter()
    }

    /// Returns the number of processes that have a value.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns whether no process has a value.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
