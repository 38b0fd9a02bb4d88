//! Compiled pipelines on the disk, so that the next start need not compile them again.
//!
//! Most desktop drivers keep such a cache of their own; where one does not, or is fresh, this one helps. Only
//! Vulkan lets a program have it.

use super::device::Gpu;
use crate::cache;

/// The driver's cache and where it is kept.
#[derive(Debug)]
pub(super) struct PipelineCache {
    pub(super) raw: wgpu::PipelineCache,
    file: String,
    key: String,
    /// What the file held, to see whether anything is new.
    loaded: Option<Vec<u8>>,
}

impl PipelineCache {
    /// The cache of an adapter, with what is on the disk; `None` where the backend has none.
    pub(super) fn load(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<Self> {
        let name = wgpu::util::pipeline_cache_key(adapter)?;
        let file = format!("{name}.bin");
        // Drivers should refuse what another version made. This one does not rely on it.
        let version = env!("CARGO_PKG_VERSION");
        let key = format!("{version} {name} {} {} {}", adapter.name, adapter.driver, adapter.driver_info);
        let loaded = cache::read(&file, &key);
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: loaded.as_deref(), fallback: true };
        // SAFETY: the data is what `get_data` returned for this adapter, driver and version: key and checksum
        // were compared.
        let raw = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { raw, file, key, loaded })
    }

    fn save(&self) {
        let data = self.raw.get_data().filter(|data| self.loaded.as_ref() != Some(data));
        if let Some(data) = data {
            cache::write(&self.file, &self.key, &data);
        }
    }
}

impl Drop for Gpu {
    /// Keeps the pipelines that were made. Nothing that goes wrong here matters.
    fn drop(&mut self) {
        if let Some(cache) = self.pipeline_cache.take()
            && self.counters().pipelines > 0
            && self.check().is_ok()
        {
            cache.save();
        }
    }
}
