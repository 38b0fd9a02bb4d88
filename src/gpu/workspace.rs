//! Memory that the plans of a device share: what they compute on the way, and nobody reads between two replays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Buffer;

/// The buffers of intermediate tensors. Each is freed when the last plan that uses it is dropped.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Mutex<Vec<Weak<Buffer>>>,
    replaying: Mutex<()>,
}

impl Workspace {
    /// The buffers that plans use now.
    pub fn buffers(&self) -> Vec<Arc<Buffer>> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.retain(|buffer| buffer.strong_count() > 0);
        buffers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Offers buffers to the plans that are bound after this; those that are there already stay once.
    pub fn add(&self, added: &[Arc<Buffer>]) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        for buffer in added.iter().map(Arc::downgrade) {
            if !buffers.iter().any(|other| other.ptr_eq(&buffer)) {
                buffers.push(buffer);
            }
        }
    }

    /// Held while a plan is replayed, so that two threads do not mix their replays: each would overwrite what the other
    /// one has computed.
    pub fn replay(&self) -> MutexGuard<'_, ()> {
        self.replaying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
