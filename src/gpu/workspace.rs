//! Memory that the plans of a device share, for intermediate results that nothing reads between two replays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Buffer;

/// The buffers of intermediate tensors. Each is freed when the last plan that uses it is dropped.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Mutex<Vec<Weak<Buffer>>>,
    replaying: Mutex<()>,
}

impl Workspace {
    /// The buffers that plans currently use.
    pub fn buffers(&self) -> Vec<Arc<Buffer>> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.retain(|buffer| buffer.strong_count() > 0);
        buffers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Offers buffers to plans that are bound later; buffers that are already there are not added again.
    pub fn add(&self, added: &[Arc<Buffer>]) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        for buffer in added.iter().map(Arc::downgrade) {
            if !buffers.iter().any(|other| other.ptr_eq(&buffer)) {
                buffers.push(buffer);
            }
        }
    }

    /// A lock to hold while a plan is replayed, so that two threads do not mix their replays: each would overwrite what
    /// the other has computed.
    pub fn replay(&self) -> MutexGuard<'_, ()> {
        self.replaying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
